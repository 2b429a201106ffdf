package rediscache

// maxHistory is how many messages a history remembers. While a server is asked for its last message
// and answers, so many may come and the answer is still understood.
const maxHistory = 1024

// A history knows which messages have come by one connection.
type history struct {
	last   mark               // meaningless while there is none
	recent [maxHistory]string // ids, by number; those before the first message are empty
}

// next takes m in and reports whether it is the one that follows the last, or the first of all.
func (h *history) next(m message) bool {
	follows := h.last.id == "" || m.number == h.last.number+1 && m.before == h.last.id
	if !follows {
		*h = history{}
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
		h.last = m
		h.recent[m.number%maxHistory] = m.id
		return known
	case m.number > h.last.number || h.last.number-m.number >= maxHistory-1:
		return unknown
	}
	switch h.recent[m.number%maxHistory] {
	case m.id:
		return known
	case "":
		return unknown
	}
	return foreign
}
