// Package redisrollout keeps the rollouts of package versioning in Redis, so that all replicas of a
// service have one state and one test:
//
//	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"})
//	store, err := redisrollout.New(client, redisrollout.Config{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	rollout, err := versioning.NewRollout(versioning.RolloutConfig{
//		Name: "shop", Release: "v2", Store: store, Key: user, Missing: versioning.MissingCookie,
//		Steps: []versioning.Step{{Weight: 0.05}, {Weight: 0.5}},
//	})
//
// Each replica calls Redis once in each Interval of its rollout, never for a request. A call is one
// round trip: a script replaces what the replica has seen and returns the state and what the others
// have. A change of state is made by the first who asks for it: one that was made of an older state
// is refused. A call whose connection breaks is sent again, and a change is made once all the same,
// since the name of the latest one is kept with the state. How long a weight has been in force is
// told by the server's clock.
//
// # When Redis fails
//
// A call takes at most [Config].Timeout, whatever the client is configured to, and after three
// failures in a row a breaker opens. The replicas then keep the last state; none promotes, and each
// rolls itself back if it must, by what it knows. A replica that starts meanwhile gives canary
// nothing. A server that comes back without its data, or without its last writes, is told the state
// by the first replica that knows a later one.
//
// # Limits
//
// Redis 5 or later is needed, or another server that speaks its protocol and replicates a script's
// effects. A Ring is refused. Both keys of a rollout live in one slot of a Cluster. They are some 4
// kB for each replica, of which 512 are kept, and expire 90 days after the last call. Whoever can
// write them decides what clients get.
package redisrollout
