package rediscache

// maxHistory is how many messages a history remembers. While a server is asked for its last message
// and answers, so many may come and the answer is still understood.
const maxHistory = 1024

// A history knows which messages have come by one connection.
type history struct {
	last   mark               // its id is empty while there is none
	first  uint64             // the least number whose id is known
	recent [maxHistory]string // ids of the last ones, by number
}

// next takes m in and reports whether it is the one that follows the last, or the first of all.
func (h *history) next(m message) bool {
	follows := h.last.id == "" || m.number == h.last.number+1 && m.before == h.last.id
	if !follows {
		*h = history{}
	}
	if h.last.id == "" {
		h.first = m.number - 1
	}
	h.recent[(m.number-1)%maxHistory] = m.before
	h.recent[m.number%maxHistory] = m.id
	h.last = m.mark
	return follows
}

// A relation is how a mark stands to a history.
type relation int

const (
	known   relation = iota // the message has come
	unknown                 // it may come yet, or is too long ago
	foreign                 // the server counts other messages than those that have come
)

// compare says how the server's last message stands to those that have come. To an empty history it
// is the first that counts as having come.
func (h *history) compare(m mark) relation {
	switch {
	case h.last.id == "":
		h.last, h.first = m, m.number
		h.recent[m.number%maxHistory] = m.id
		return known
	case m.number > h.last.number:
		return unknown
	case m.number < h.first: // numbers only grow, and the question came after the subscription
		return foreign
	case h.last.number-m.number >= maxHistory-1:
		return unknown
	case h.recent[m.number%maxHistory] == m.id:
		return known
	}
	return foreign
}
