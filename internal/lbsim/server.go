package lbsim

import "math"

// A server works on all its requests at once, at equal rates of speed · min(1, cores/requests). v
// is the service that each one has had since the start of time; a request ends when v has grown by
// its work.
type server struct {
	cores float64
	v     float64 // ns of service
	at    int64   // when v was computed
	jobs  []job   // a heap by end

	speed    float64 // 1 is normal, 0 is hung
	refuse   bool    // connections are refused
	fail     float64 // share of requests answered with an error
	instant  bool    // errors take failTime and no work
	incoming int     // requests on their way, for the oracle

	report Reporter
}

type job struct {
	end float64
	r   int // index of the request
}

func (s *server) rate() float64 {
	if n := float64(len(s.jobs)); n > s.cores {
		return s.speed * s.cores / n
	}
	return s.speed
}

func (s *server) advance(now int64) {
	s.v += float64(now-s.at) * s.rate()
	s.at = now
}

// next returns when the first request ends.
func (s *server) next() int64 {
	if len(s.jobs) == 0 || s.speed <= 0 {
		return math.MaxInt64
	}
	return s.at + max(int64(math.Ceil((s.jobs[0].end-s.v)/s.rate())), 0)
}

func (s *server) add(reqs []request, r int, work float64) {
	s.jobs = append(s.jobs, job{s.v + work, r})
	s.up(reqs, len(s.jobs)-1)
}

// remove takes the job at position i out of the heap.
func (s *server) remove(reqs []request, i int) {
	last := len(s.jobs) - 1
	reqs[s.jobs[i].r].position = -1
	if i != last {
		s.jobs[i] = s.jobs[last]
		s.jobs = s.jobs[:last]
		s.down(reqs, i)
		s.up(reqs, i)
		return
	}
	s.jobs = s.jobs[:last]
}

func (s *server) up(reqs []request, i int) {
	j := s.jobs[i]
	for i > 0 {
		p := (i - 1) / 2
		if s.jobs[p].end <= j.end {
			break
		}
		s.jobs[i] = s.jobs[p]
		reqs[s.jobs[i].r].position = i
		i = p
	}
	s.jobs[i] = j
	reqs[j.r].position = i
}

func (s *server) down(reqs []request, i int) {
	j, n := s.jobs[i], len(s.jobs)
	for {
		c := 2*i + 1
		if c >= n {
			break
		}
		if c+1 < n && s.jobs[c+1].end < s.jobs[c].end {
			c++
		}
		if j.end <= s.jobs[c].end {
			break
		}
		s.jobs[i] = s.jobs[c]
		reqs[s.jobs[i].r].position = i
		i = c
	}
	s.jobs[i] = j
	reqs[j.r].position = i
}

// expected is how long a further request of mean work would take, if nothing else came.
func (s *server) expected() float64 {
	if s.refuse || s.speed <= 0 || s.fail >= 1 {
		return math.Inf(1)
	}
	return math.Max(1, float64(len(s.jobs)+s.incoming+1)/s.cores) / s.speed
}
