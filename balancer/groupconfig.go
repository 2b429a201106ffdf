package balancer

// A groupConfig is what a group reads of a Config. A request takes one when it begins: its picks,
// its cookie and the events of its attempts go by that one to its end. Everything else goes by the
// group's present one: a Reload may come at any time, and what a reply teaches is for later picks.
type groupConfig struct {
	*Config
	traits
	checksHealth bool
	probes       *probes // nil unless the traits have probing
}

func newGroupConfig(cfg *Config) *groupConfig {
	c := &groupConfig{Config: cfg, traits: traitsOf(cfg.Policy), checksHealth: cfg.Health.enabled()}
	c.estimator.perDecay = 1 / max(float64(c.estimator.decay), 1)
	if c.probing != nil {
		c.probes = newProbes(*c.probing)
	}
	return c
}

// keepsCosts reports whether latencies are measured and kept.
func (c *groupConfig) keepsCosts() bool { return c.estimator.decay > 0 }
