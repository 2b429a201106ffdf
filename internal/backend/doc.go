// Package backend runs HTTP servers for tests to talk to. They count the requests
// that they execute, by id, and can be slowed, made to fail, to hang, and to end in
// every way that a server can.
//
// [Start] runs one inside the test; [StartProcess] runs one as a process of its own, which can
// be killed, stopped and terminated. The process is the test's own binary, so
// the test's package calls [Main] first:
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
//   - the path /healthz, which is not counted: 200, or 503 if [Behaviour.Unhealthy] or while it terminates;
//   - the query field bytes=N: a body of N bytes instead;
//   - the query field delay=D: after that duration, beside [Behaviour.Delay].
//
// A request is counted when its body has been read, before any delay. Its id is the
// field [IDField], or "" if it has none.
package backend
