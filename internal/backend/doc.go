// Package backend runs HTTP servers for tests to talk to. A backend counts, by id, the requests
// that it executes. A test can slow it down, make it fail or hang, and end it in every way in which
// servers end.
//
// [Start] runs a backend inside the test. [StartProcess] runs one in a process of its own, which
// can be paused, terminated and killed. That process runs the test's binary, so the TestMain of the
// package calls [Main] first:
//
//	func TestMain(m *testing.M) {
//		backend.Main() // does not return in a process that StartProcess has started
//		goleak.VerifyTestMain(m)
//	}
//
//	b := backend.StartProcess(t, backend.Config{Name: "a"})
//	b.Set(backend.Behaviour{Delay: 200 * time.Millisecond})
//	b.Kill() // SIGKILL
//	b.Restart()
//
// What a backend answers:
//
//   - any path: 200, the field Backend with its name, and its name as the body;
//   - the path /healthz, which is not counted: 200, or 503 if [Behaviour.Unhealthy] is set or while
//     the backend terminates;
//   - the query parameter bytes=N: a body of N bytes instead of the name;
//   - the query parameter delay=D: the same after that duration, added to [Behaviour.Delay].
//
// A request is counted once its body has been read, before any delay. Its id is the value of the
// field [IDField], or "" without that field.
package backend
