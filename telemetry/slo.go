package telemetry

import "time"

type SLO struct {
	cfg struct{ Latency time.Duration }
}

func (s *SLO) record(seriesKey, outcome) {}
