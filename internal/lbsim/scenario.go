package lbsim

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// A Scenario is a fleet, its load and its weather.
type Scenario struct {
	Name    string
	Clients int
	Servers int
	Cores   int
	Load    float64                  // of the servers' capacity in fair weather
	Work    func(*rand.Rand) float64 // mean 1; nil is exponential
	Mean    time.Duration            // of the work; zero is 20 ms
	Warmup  time.Duration            // not measured
	Length  time.Duration            // measured
	Timeout time.Duration            // zero is 2 s
	Weather func(*Weather)
}

// Work distributions with mean 1.
var (
	Exponential = func(r *rand.Rand) float64 { return r.ExpFloat64() }
	// Normal is the positive part of a normal distribution whose deviation is its mean.
	Normal = func(r *rand.Rand) float64 {
		for {
			if x := 1 + r.NormFloat64(); x > 0 {
				return x / 1.2876
			}
		}
	}
	// Bimodal makes one request in twenty ten times as expensive.
	Bimodal = func(r *rand.Rand) float64 {
		if r.Float64() < 0.05 {
			return 10 / 1.45
		}
		return 1 / 1.45
	}
	// Pareto has shape 1.5, cut at 100 times its least value.
	Pareto = func(r *rand.Rand) float64 {
		const a, h = 1.5, 100.0
		mean := a / (a - 1) * (1 - math.Pow(h, 1-a)) / (1 - math.Pow(h, -a))
		return math.Pow(1-r.Float64()*(1-math.Pow(h, -a)), -1/a) / mean
	}
)

// Weather collects what happens to servers. Times count from the start of the measurement.
type Weather struct {
	Rand     *rand.Rand
	Servers  int
	Start    time.Duration // negative: when the warm-up begins
	End      time.Duration
	changes  []change
	recovery []recovery
	absent   []int
	bad      map[int]bool
}

type change struct {
	at     time.Duration
	server int
	apply  func(*server)
	join   bool
}

type recovery struct {
	at     time.Duration
	server int
}

func (w *Weather) set(at time.Duration, i int, apply func(*server)) {
	w.changes = append(w.changes, change{at: at, server: i, apply: apply})
	w.bad[i] = true
}

// Speed sets a server's speed; 1 is normal, 0 hung.
func (w *Weather) Speed(at time.Duration, i int, speed float64) {
	w.set(at, i, func(s *server) { s.speed = speed })
}

// Refuse makes a server refuse connections, and drops the requests it has; or ends that.
func (w *Weather) Refuse(at time.Duration, i int, on bool) {
	w.set(at, i, func(s *server) { s.refuse = on })
}

// Fail makes a server answer a share of its requests with an error; at once if instant.
func (w *Weather) Fail(at time.Duration, i int, share float64, instant bool) {
	w.set(at, i, func(s *server) { s.fail, s.instant = share, instant })
}

// Join adds a server that was not in the clients' sets so far.
func (w *Weather) Join(at time.Duration, i int) {
	w.absent = append(w.absent, i)
	w.changes = append(w.changes, change{at: at, server: i, join: true})
	w.bad[i] = true
}

// Recovered marks a time at which a server is well again: from then on its starvation is measured.
func (w *Weather) Recovered(at time.Duration, i int) {
	w.recovery = append(w.recovery, recovery{at, i})
}

func (s *Scenario) weather(seed uint64) *Weather {
	w := &Weather{
		Rand: rand.New(rand.NewPCG(seed, 3)), Servers: s.Servers,
		Start: -s.Warmup, End: s.Length, bad: map[int]bool{},
	}
	if s.Weather != nil {
		s.Weather(w)
	}
	slices.SortStableFunc(w.changes, func(a, b change) int { return int(a.at - b.at) })
	return w
}

const second = time.Second

// Scenarios returns the standard ones for a number of clients: 12 servers for one client, else 30.
func Scenarios(clients int) []Scenario {
	servers := 30
	if clients == 1 {
		servers = 12
	}
	base := func(name string, load float64, weather func(*Weather)) Scenario {
		s := Scenario{
			Name: name, Clients: clients, Servers: servers, Cores: 4, Load: load,
			Warmup: 5 * second, Length: 20 * second, Timeout: 2 * second, Weather: weather,
		}
		if servers < 30 {
			s.Length = 40 * second
		}
		return s
	}
	with := func(s Scenario, work func(*rand.Rand) float64) Scenario { s.Work = work; return s }
	long := func(s Scenario) Scenario { s.Length = 40 * second; return s }
	return []Scenario{
		base("even .90", .90, nil),
		with(base("even normal .90", .90, nil), Normal),
		with(base("even bimodal .85", .85, nil), Bimodal),
		with(base("even pareto .75", .75, nil), Pareto),
		base("half slow .90", .90, halfSlow),
		base("antagonists .75", .75, antagonists),
		base("antagonists .90", .90, antagonists),
		base("GC pauses .75", .75, pauses),
		long(base("black hole .75", .75, blackHole)),
		base("gray host .75", .75, gray),
		long(base("hang 10 s .75", .75, hang)),
		long(base("slow 10 s .75", .75, slowTen)),
		long(base("cold join .85", .85, coldJoin)),
		long(base("rolling restart .70", .70, rollingRestart)),
		long(base("flapping .75", .75, flapping)),
		long(base("zone loss .60", .60, zoneLoss)),
		base("brownout .60", .60, brownout),
	}
}

// halfSlow makes every second server half as fast; the load is of what is left.
func halfSlow(w *Weather) {
	// The fast half makes up for the slow one, so that capacity is what the load counts with.
	for i := range w.Servers {
		w.Speed(w.Start, i, []float64{2.0 / 3, 4.0 / 3}[i%2])
	}
}

// antagonists slow servers down to 0.3, on for 1 s and off for 4 s on average. The capacity lost is
// made up for.
func antagonists(w *Weather) {
	const fair = 1 / (0.8 + 0.2*0.3)
	for i := range w.Servers {
		on := w.Rand.Float64() < 0.2
		for t := w.Start; t < w.End; on = !on {
			mean, speed := 4*second, fair
			if on {
				mean, speed = second, fair*0.3
			}
			w.Speed(t, i, speed)
			t += time.Duration(w.Rand.ExpFloat64() * float64(mean))
		}
	}
}

// pauses stop each server for 200 ms every 10 s.
func pauses(w *Weather) {
	for i := range w.Servers {
		for t := w.Start + time.Duration(
			w.Rand.Float64()*10*float64(second),
		); t < w.End; t += time.Duration((9 + 2*w.Rand.Float64()) * float64(second)) {
			w.Speed(t, i, 0)
			w.Speed(t+200*time.Millisecond, i, 1)
		}
	}
}

func blackHole(w *Weather) { w.Fail(0, 0, 1, true) }

func gray(w *Weather) { w.Fail(0, 0, .1, false) }

func hang(w *Weather) {
	w.Speed(0, 0, 0)
	w.Speed(10*second, 0, 1)
	w.Recovered(10*second, 0)
}

// slowTen makes two servers ten times as slow for 10 s.
func slowTen(w *Weather) {
	for i := range 2 {
		w.Speed(0, i, .1)
		w.Speed(10*second, i, 1)
		w.Recovered(10*second, i)
	}
}

// coldJoin adds a server that warms up from 5 % over 10 s.
func coldJoin(w *Weather) {
	w.Join(0, 0)
	for k := range 20 {
		w.Speed(time.Duration(k)*second/2, 0, .05+.95*float64(k)/20)
	}
	w.Speed(10*second, 0, 1)
	w.Recovered(10*second, 0)
}

// rollingRestart takes a tenth of the servers down every 5 s, for 2 s. They come back at half speed
// for 2 s.
func rollingRestart(w *Weather) {
	batch := max(w.Servers/10, 1)
	for i := 0; i*batch < w.Servers && time.Duration(i)*5*second < w.End; i++ {
		t := time.Duration(i) * 5 * second
		for k := i * batch; k < min((i+1)*batch, w.Servers); k++ {
			w.Refuse(t, k, true)
			w.Refuse(t+2*second, k, false)
			w.Speed(t+2*second, k, .5)
			w.Speed(t+4*second, k, 1)
			w.Recovered(t+2*second, k)
		}
	}
}

// flapping makes a server fail at once for 3 s out of 6.
func flapping(w *Weather) {
	for t := time.Duration(0); t < w.End; t += 6 * second {
		w.Fail(t, 0, 1, true)
		w.Fail(t+3*second, 0, 0, false)
	}
}

// zoneLoss takes three servers in ten away for 10 s.
func zoneLoss(w *Weather) {
	for i := range w.Servers * 3 / 10 {
		w.Refuse(0, i, true)
		w.Refuse(10*second, i, false)
		w.Recovered(10*second, i)
	}
}

// brownout slows all servers for 3 s and makes them fail half of the requests.
func brownout(w *Weather) {
	for i := range w.Servers {
		w.Speed(5*second, i, .65)
		w.Fail(5*second, i, .5, false)
		w.Speed(8*second, i, 1)
		w.Fail(8*second, i, 0, false)
	}
}
