package lbsim

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// A Client decides where requests go. All times are nanoseconds since the simulation's start.
type Client interface {
	// Pick chooses a server for a request that has been to the servers tried. token identifies the
	// attempt until Finish.
	Pick(now int64, tried []int) (server, token int, ok bool)
	// Reply tells what became of an attempt after took nanoseconds. load is what the server said of
	// itself.
	Reply(token int, now, took int64, o Outcome, load Load)
	// Finish ends an attempt.
	Finish(token int, now int64)
	// Tick is called every 100 ms.
	Tick(now int64)
	// SetServers replaces the set of servers.
	SetServers(now int64, servers []int)
	// Probes returns servers to ask for their load now. It is called after every Pick.
	Probes(now int64) []int
	// Probed brings the answer.
	Probed(server int, now int64, load Load)
}

// Outcome is what became of an attempt.
type Outcome int

// The outcomes of attempts.
const (
	Success Outcome = iota
	Failure
	Refused // the connection: another server may be tried
	Expired
)

// Load is what a server says of itself.
type Load struct {
	InFlight int
	Latency  int64   // ns; zero is unknown
	Failing  float64 // share of the recent requests that it failed
}

// A Reporter keeps the load that a server reports.
type Reporter interface {
	Begin(now int64) (token int)
	End(token int, now, took int64, failed bool)
	Load(now int64) Load
}

// Config says what to run.
type Config struct {
	Scenario    Scenario
	Seed        uint64
	NewClient   func(i int, random *rand.Rand) Client // nil runs the oracle
	NewReporter func() Reporter                       // may be nil
}

const (
	hop       = int64(250 * time.Microsecond) // one way
	failTime  = int64(200 * time.Microsecond)
	tick      = int64(100 * time.Millisecond)
	maxDials  = 4
	bucket    = int64(500 * time.Millisecond)
	forever   = math.MaxInt64
	probeTime = int64(100 * time.Microsecond) // on the server
)

type request struct {
	start     int64
	sent      int64 // of this attempt
	work      float64
	chance    float64 // decides whether a server that fails a share fails this one
	client    int32
	server    int32
	token     int32
	reporting int32
	position  int // in the server's heap; -1 if not there
	tried     []int
	outcome   Outcome
	load      Load
	done      bool
}

// timed is an entry of a queue whose delays are all the same, so that it is in order.
type timed struct {
	at   int64
	r    int // request, or server of a probe
	c    int // client of a probe
	dial int // which attempt of the request it is
}

type queue struct {
	items []timed
	head  int
}

func (q *queue) push(t timed) { q.items = append(q.items, t) }
func (q *queue) next() int64 {
	if q.head == len(q.items) {
		return forever
	}
	return q.items[q.head].at
}
func (q *queue) pop() timed {
	t := q.items[q.head]
	q.head++
	if q.head > 1024 && q.head*2 > len(q.items) {
		q.items = append(q.items[:0], q.items[q.head:]...)
		q.head = 0
	}
	return t
}

type sim struct {
	cfg     Config
	s       Scenario
	now     int64
	warm    int64 // when the measurement begins
	end     int64
	arrive  *rand.Rand
	servers []server
	clients []Client
	reqs    []request

	toServer, toClient, expiry, failing, toProbe, fromProbe queue
	nextArrival                                             int64
	ends                                                    []int64 // per server
	first                                                   int     // server that ends first
	ticks                                                   queue
	weather                                                 *Weather
	nextChange                                              int
	member                                                  []bool
	gap                                                     float64

	latencies []int64
	result    Result
	counts    [][]int32 // per server and bucket, of picks since warm
	maxInside int
}

// Run runs one simulation.
func Run(cfg Config) Result {
	s := cfg.Scenario
	if s.Work == nil {
		s.Work = Exponential
	}
	if s.Mean == 0 {
		s.Mean = 20 * time.Millisecond
	}
	if s.Timeout == 0 {
		s.Timeout = 2 * time.Second
	}
	m := &sim{cfg: cfg, s: s, warm: int64(s.Warmup), end: int64(s.Warmup + s.Length)}
	m.arrive = rand.New(rand.NewPCG(cfg.Seed, 1))
	m.weather = s.weather(cfg.Seed)
	m.servers = make([]server, s.Servers)
	m.ends = make([]int64, s.Servers)
	m.member = make([]bool, s.Servers)
	m.counts = make([][]int32, s.Servers)
	for i := range m.servers {
		m.servers[i] = server{cores: float64(s.Cores), speed: 1}
		if cfg.NewReporter != nil {
			m.servers[i].report = cfg.NewReporter()
		}
		m.ends[i] = forever
		m.member[i] = !slices.Contains(m.weather.absent, i)
		m.counts[i] = make([]int32, (int64(s.Length)+bucket-1)/bucket)
	}
	m.clients = make([]Client, s.Clients)
	for i := range m.clients {
		if cfg.NewClient == nil {
			m.clients[i] = &oracle{sim: m, random: rand.New(rand.NewPCG(cfg.Seed, 100+uint64(i)))}
		} else {
			m.clients[i] = cfg.NewClient(i, rand.New(rand.NewPCG(cfg.Seed, 100+uint64(i))))
		}
		m.clients[i].SetServers(0, m.members())
		m.ticks.push(timed{at: tick * int64(i) / int64(s.Clients), c: i})
	}
	m.gap = float64(s.Mean) / (s.Load * float64(s.Cores) * float64(s.Servers))
	m.reqs = make([]request, 0, int(float64(m.end)/m.gap*1.02)+100)
	m.run()
	return m.report()
}

func (m *sim) members() []int {
	var is []int
	for i, in := range m.member {
		if in {
			is = append(is, i)
		}
	}
	return is
}

func (m *sim) run() {
	for {
		// The order of the candidates decides ties, so that runs repeat.
		t, what := m.end, 0
		if m.nextChange < len(m.weather.changes) {
			if at := m.warm + int64(m.weather.changes[m.nextChange].at); at < t {
				t, what = at, 1
			}
		}
		for k, q := range [...]*queue{
			&m.toServer, &m.toClient, &m.expiry, &m.failing, &m.toProbe, &m.fromProbe, &m.ticks,
		} {
			if at := q.next(); at < t {
				t, what = at, 2+k
			}
		}
		if at := m.ends[m.first]; at < t {
			t, what = at, 9
		}
		if m.nextArrival < t {
			t, what = m.nextArrival, 10
		}
		m.now = t
		switch what {
		case 0:
			return
		case 1:
			m.change(m.weather.changes[m.nextChange])
			m.nextChange++
		case 2:
			m.atServer(m.toServer.pop())
		case 3:
			m.atClient(m.toClient.pop())
		case 4:
			m.expire(m.expiry.pop())
		case 5:
			f := m.failing.pop()
			m.leave(f.r, Failure)
		case 6:
			p := m.toProbe.pop()
			if s := &m.servers[p.r]; s.speed > 0 && !s.refuse && s.report != nil {
				// The answer is found when it is due: only one load is in flight for each client
				// and server.
				m.fromProbe.push(timed{at: m.now + probeTime + hop, r: p.r, c: p.c})
			}
		case 7:
			p := m.fromProbe.pop()
			s := &m.servers[p.r]
			m.clients[p.c].Probed(p.r, m.now, s.report.Load(m.now-hop))
		case 8:
			k := m.ticks.pop()
			m.clients[k.c].Tick(m.now)
			m.ticks.push(timed{at: k.at + tick, c: k.c})
		case 9:
			i := m.first
			s := &m.servers[i]
			s.advance(m.now)
			r := s.jobs[0].r
			s.remove(m.reqs, 0)
			m.reschedule(i)
			out := Success
			if m.reqs[r].chance < s.fail {
				out = Failure
			}
			m.leave(r, out)
		case 10:
			m.arrival()
		}
	}
}

func (m *sim) reschedule(i int) {
	m.ends[i] = m.servers[i].next()
	if i == m.first {
		for k, at := range m.ends {
			if at < m.ends[m.first] {
				m.first = k
			}
		}
	} else if m.ends[i] < m.ends[m.first] {
		m.first = i
	}
}

func (m *sim) arrival() {
	m.nextArrival = m.now + int64(m.arrive.ExpFloat64()*m.gap) + 1
	m.reqs = append(m.reqs, request{
		start: m.now, client: int32(m.arrive.IntN(m.s.Clients)),
		work: m.s.Work(m.arrive) * float64(m.s.Mean), chance: m.arrive.Float64(), position: -1,
	})
	r := len(m.reqs) - 1
	m.expiry.push(timed{at: m.now + int64(m.s.Timeout), r: r})
	m.dispatch(r)
}

func (m *sim) dispatch(r int) {
	q := &m.reqs[r]
	c := m.clients[q.client]
	server, token, ok := c.Pick(m.now, q.tried)
	if !ok {
		m.count(r, Failure)
		return
	}
	q.server, q.token, q.sent = int32(server), int32(token), m.now
	m.servers[server].incoming++
	if q.start >= m.warm {
		if b := (m.now - m.warm) / bucket; b < int64(len(m.counts[server])) {
			m.counts[server][b]++
		}
	}
	m.toServer.push(timed{at: m.now + hop, r: r, dial: len(q.tried)})
	for _, p := range c.Probes(m.now) {
		m.toProbe.push(timed{at: m.now + hop, r: p, c: int(q.client)})
	}
}

func (m *sim) atServer(t timed) {
	q := &m.reqs[t.r]
	i := int(q.server)
	s := &m.servers[i]
	s.incoming--
	if q.done {
		return
	}
	if s.refuse {
		q.outcome = Refused
		m.toClient.push(timed{at: m.now + hop, r: t.r, dial: len(q.tried)})
		return
	}
	if s.report != nil {
		q.load = s.report.Load(m.now) // as a field of the response, set before the work
		q.reporting = int32(s.report.Begin(m.now))
	}
	if s.speed > 0 && s.instant && q.chance < s.fail {
		m.failing.push(timed{at: m.now + failTime, r: t.r})
		return
	}
	s.advance(m.now)
	s.add(m.reqs, t.r, q.work)
	if n := len(s.jobs); n > m.maxInside && m.now >= m.warm {
		m.maxInside = n
	}
	m.reschedule(i)
}

// leave sends a request's answer on its way.
func (m *sim) leave(r int, o Outcome) {
	q := &m.reqs[r]
	if q.done {
		return
	}
	q.outcome = o
	if s := &m.servers[q.server]; s.report != nil {
		s.report.End(int(q.reporting), m.now, m.now-q.sent-hop, o == Failure)
	}
	m.toClient.push(timed{at: m.now + hop, r: r, dial: len(q.tried)})
}

func (m *sim) atClient(t timed) {
	q := &m.reqs[t.r]
	if q.done {
		return
	}
	c := m.clients[q.client]
	c.Reply(int(q.token), m.now, m.now-q.sent, q.outcome, q.load)
	c.Finish(int(q.token), m.now)
	if q.outcome == Refused && len(q.tried) < maxDials-1 {
		q.tried = append(q.tried, int(q.server))
		m.dispatch(t.r)
		return
	}
	m.count(t.r, q.outcome)
}

// expire abandons a request whose time is up.
func (m *sim) expire(t timed) {
	q := &m.reqs[t.r]
	if q.done {
		return
	}
	if i := int(q.server); q.position >= 0 {
		s := &m.servers[i]
		s.advance(m.now)
		s.remove(m.reqs, q.position)
		m.reschedule(i)
		if s.report != nil {
			s.report.End(int(q.reporting), m.now, m.now-q.sent-hop, false) // its client has gone
		}
	}
	c := m.clients[q.client]
	c.Reply(int(q.token), m.now, m.now-q.sent, Expired, Load{})
	c.Finish(int(q.token), m.now)
	m.count(t.r, Expired)
}

func (m *sim) change(c change) {
	i := c.server
	if c.join {
		m.member[i] = true
		for _, client := range m.clients {
			client.SetServers(m.now, m.members())
		}
		return
	}
	s := &m.servers[i]
	s.advance(m.now)
	c.apply(s)
	if s.refuse { // the process is gone, and what it was working on
		for len(s.jobs) > 0 {
			r := s.jobs[0].r
			s.remove(m.reqs, 0)
			m.leave(r, Failure)
		}
	}
	m.reschedule(i)
}

// count enters a request that has ended into the result.
func (m *sim) count(r int, o Outcome) {
	q := &m.reqs[r]
	q.done = true
	q.tried = nil
	if q.start < m.warm {
		return
	}
	m.result.Requests++
	switch o {
	case Success:
		m.latencies = append(m.latencies, m.now-q.start)
	case Expired:
		m.latencies = append(m.latencies, m.now-q.start)
		m.result.Expired++
	default:
		m.result.Failed++
	}
}
