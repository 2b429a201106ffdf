// Package health answers the probes of an orchestrator or a load balancer: is the process alive,
// has it started, and should it get requests now.
//
//	h, err := health.New(health.Config{Checks: []health.CheckConfig{
//		{Name: "db", Func: db.PingContext},
//	}})
//	if err != nil {
//		log.Fatal(err)
//	}
//	admin.Handle("GET /livez", h.Live())
//	admin.Handle("GET /readyz", h.Ready())
//	admin.Handle("GET /startupz", h.Startup())
//	...
//	h.Drain(ctx) // on SIGTERM: readiness fails, load balancers notice
//	srv.Shutdown(ctx)
//
// A check runs when a probe comes and the last result is too old: however many probers there are,
// each check runs once per [CheckConfig.TTL], and never twice at the same time. A check that hangs
// or panics fails, and nothing else.
//
// The handlers belong on a listener that strangers do not reach, or at least outside of limits and
// access logs. Their bodies name checks and tell no errors: [Health.Stats] has those, without
// secrets, for an admin page.
//
// Stats is fit for Register of package telemetry, which makes of it the instruments
// trivet.health.started, trivet.health.draining and, by check, trivet.health.up{key}.
//
// The package needs no OpenTelemetry and starts nothing by itself. It watches nothing between
// probes, so it calls nobody when a check begins to fail.
package health
