// Package versioning lets an API change without breaking those who use it:
//
//	versions, err := versioning.New(versioning.Config{
//		Versions: []versioning.Version{
//			{Name: "2025-04-01", Deprecated: deprecated, Sunset: sunset},
//			{Name: "2026-10-01"},
//		},
//		Sources: []versioning.Source{versioning.Path("/v"), versioning.Header("Api-Version")},
//		Default: versioning.Oldest,
//		Changes: []versioning.Change{nameIsAnObject},
//	})
//	if err != nil {
//		log.Fatal(err)
//	}
//	handler = versions.Middleware(handler)
//
// [Versions] finds out which version a request speaks, tells its client how long the version will
// be spoken, and refuses it afterwards. The handler knows the newest version only, the head: a
// [Change] says how the two versions next to each other differ, and all changes since a client's
// version turn its request into one of the head, and the response back. Where versions are too
// different for that, [Versions.Select] has a handler for each.
//
// # Place in a chain
//
// [Versions.Middleware] is [Versions.Resolve] around [Versions.Convert]. Resolve stands outside of
// a cache and Convert inside of it, so that what is stored is converted once; [Key] is then a part
// of the cache's key. Resolve changes nothing of the request, so the cache sees what clients see.
// Authorization and limits that stand inside Convert are in force for all versions, and count them
// together. What compresses responses stands outside of Convert. CORS stands outside of Resolve, so
// that pages can read refusals. Where it does not, preflights pass all the same: browsers send them
// without fields and credentials, so one that names no version is never refused for that, and is no
// use of a version.
//
// # Which version
//
// The sources are read in this order: the path, the host, a field, the media types, the query,
// functions of your own; if none of them names a version, [Config].Pin and then [Config].Default
// decide. Sources that name different versions are refused, or the first one wins. Responses vary
// by the fields that are read, on errors too.
//
// These requests are refused, with a problem document (RFC 9457) whose type ends in the word in the
// third column, and which has what was requested, the supported versions and the latest one:
//
//	Case                                       Status  Type         Fields
//	no version is named, Default is Require    400     missing      supported, latest
//	it is malformed, wherever it is named      400     malformed    requested, supported, latest
//	a source names several                     400     duplicate    requested, supported, latest
//	sources name different ones                400     conflict     requested, supported, latest
//	unknown in the path or the host            404     unsupported  requested, supported, latest
//	unknown in a field, the query, Func or Pin 400     unsupported  requested, supported, latest
//	unknown in Accept, or not acceptable       406     unsupported  requested, supported, latest
//	unknown in Content-Type                    415     unsupported  requested, supported, latest; Accept
//	a date after today, with Floor             as unknown
//	after its sunset                           410     gone         and sunset, successor; Link, Sunset
//	in a brownout, or a rehearsal of a sunset  410     brownout     the same; Retry-After
//
// A media range of Accept with a version that is unknown or malformed counts only if no other range
// can be served. [Config].ErrorHandler can answer otherwise.
//
// A request that cannot be converted gets 400, 413 if its body is larger than MaxBody, or 415 if it
// is compressed; a response that cannot be, 500.
//
// # Conversion
//
// Changes of the header, the URL or the status never wait for a body. A body is read into memory if
// a change converts it: once, however many changes there are, and never more than MaxBody of it.
// What no change looks into is copied byte for byte. Streams of events and lines are converted item
// by item as they come. All other bodies pass, and so do 1xx, 204 and 304, and upgraded
// connections.
//
// A converted response has its own Content-Length and no digests. Where a chain converts bodies,
// entity tags end in the version, which conditions of requests lose again, so that a client never
// gets 304 for what it has in another version; ranges are not served of converted bodies. A request
// of the head version costs no more than finding that out.
//
// # Who still uses a version
//
// [Versions.Report] has the use by version, route and client, [Versions.Removable] says whether a
// version may go, and [Versions.Save] and [Versions.Restore] keep that over a restart. They know of
// this process. The fleet's answer is in its metrics: the events of [Config].Observe, counted by
// package telemetry, are trivet.versioning.request with the version. In Prometheus, how often each
// version was asked for in 30 days:
//
//	sum by (version) (
//	  increase(trivet_versioning_request_total{version!="",source!="preflight"}[30d])
//	)
//
// # Rollouts
//
// [Rollout] and [Shadow] change which build answers, and know nothing of versions:
//
//	rollout, err := versioning.NewRollout(versioning.RolloutConfig{
//		Name: "shop", Release: "v2",
//		Key: user, Missing: versioning.MissingCookie,
//		Steps: []versioning.Step{{Weight: 0.05}, {Weight: 0.25}, {Weight: 1}},
//		TagField: "Surrogate-Key", OnRollback: purge,
//	})
//	if err != nil {
//		log.Fatal(err)
//	}
//	handler = rollout.Handler(blue, green)
//
// A key, say a user, has one arm: canary if its bucket, of 10,000, is below the weight. So nobody
// changes back and forth while the weight rises or falls, on any replica. A step ends by itself
// when its minimums are met and nothing speaks against the release; then the next weight comes into
// force, at one instant for all requests here. A rollout of one step, of weight 1 and Manual, is
// blue-green: [Rollout.Switch] gives canary everything, [Rollout.Rollback] takes it back,
// [Rollout.Drained] says when the arm that was left may be stopped. It stands inside of caches:
// TagField and OnRollback let one purge what a bad release gave it, and if the arms differ on
// purpose, the arm must be a part of its key: [Rollout.Decide] stands in front of the cache then,
// and [ArmOf] tells the key.
//
// # How a release is judged
//
// Canary is compared with stable at the same time, never with a number. What is counted is the arm
// in which each error falls. Without a difference a bucket with an error is canary's by chance
// alone, whatever the rate of errors and however often clients come: only its first error at a
// weight counts, since one client that always fails is one witness. Where the arm is drawn for each
// request, each error counts. Likelihood ratios against errors that are 1.5 to 50 times as likely
// make the evidence. A release that is no worse reaches 1/Alpha with a chance of at most Alpha,
// over all steps and however often it is looked at (Ville's inequality), so the rollout looks at
// each error and nothing needs to be sized in advance. Latency is judged alike, with requests above
// the 95th percentile of the last ten seconds as events, and only if a percentile is worse by more
// than Tolerance. Besides, a release that fails at half of everything is broken, whatever stable
// does. What is shed or canceled does not count, but a request that was slow before its client left
// is a slow one.
//
// [Rollout.Verdict] has reason, numbers and what is missing. Too little data never promotes: the
// step waits and is paused at its Deadline. testdata/rollout.md has what simulations say of false
// alarms and of the requests it takes to find a difference; `make simulate` writes it.
//
// With a [RolloutStore] in common, replicas add up their buckets, so a fleet has one test, as quick
// as one process with all its requests and with no more false alarms. A store that is lost leaves
// the state as it is.
//
// A [Shadow] sends copies of requests to a candidate whose answers no client gets, and says where
// they differ, in JSON by path, also in gzip; [Shadow.Judge] makes a rollout wait for it.
//
// # Limits
//
// Of the URLs in a response Location and Content-Location get the version's segment back. Those in
// Link, in other fields and in bodies are as the handler writes them: relative to the request's
// path, or with the version that [FromContext] tells, they stay in it.
//
// A rollout without a key for most requests, or with few keys, learns little: 30 keys are at most
// 30 witnesses. Whoever knows Salt, by default Name and Release, can choose a key that is canary's.
// Requests that canary breaks by what it leaves behind, say in a database both arms share, are as
// likely in both arms and are not found.
//
// A cache in front of Resolve may serve what it holds until that is stale, also beyond a sunset:
// keep the freshness of deprecated versions short. Records of application/json-seq and bodies that
// are not JSON are not converted. If several members of an object have one name, only the last is
// kept.
//
// Specifications: RFC 9745 (Deprecation), RFC 8594 (Sunset), RFC 8288 and 5829 (Link), RFC 9110
// (negotiation, validators), RFC 9457 (problem details).
package versioning
