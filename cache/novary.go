package cache

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/dunglas/httpsfv"
)

// A searchRule is a value of the field No-Vary-Search: which parts of a query make no difference
// (draft-ietf-httpbis-no-vary-search-10).
type searchRule struct {
	text     string // the same for the same rule
	keyOrder bool   // the order of the names makes no difference
	all      bool   // no parameter makes a difference, except for those in names
	names    []string
	mark     Mark // older entries are not found by the rule: purges may not have known them
}

// parseNoVarySearch returns the rule of a response. An invalid field counts as none, as the draft
// says, and so does one that ignores nothing.
func parseNoVarySearch(values []string) (rule searchRule, ok bool) {
	if len(values) == 0 {
		return searchRule{}, false
	}
	dict, err := httpsfv.UnmarshalDictionary(values)
	if err != nil {
		return searchRule{}, false
	}
	for _, name := range dict.Names() {
		member, _ := dict.Get(name)
		switch name {
		case "key-order":
			if rule.keyOrder, ok = boolean(member); !ok {
				return searchRule{}, false
			}
		case "params":
			if all, isBool := boolean(member); isBool {
				rule.all = all
				continue
			}
			if rule.names, ok = stringList(member); !ok {
				return searchRule{}, false
			}
		case "except":
			// It needs "params" to be true, which is checked below.
			if _, ok = stringList(member); !ok {
				return searchRule{}, false
			}
		}
	}
	if member, has := dict.Get("except"); has {
		if !rule.all {
			return searchRule{}, false
		}
		rule.names, _ = stringList(member)
	}
	if !rule.all && !rule.keyOrder && len(rule.names) == 0 {
		return searchRule{}, false
	}
	slices.Sort(rule.names)
	rule.names = slices.Compact(rule.names)
	rule.text = rule.canonical()
	return rule, true
}

func (r searchRule) canonical() string {
	b := []byte{'-', '-'}
	if r.keyOrder {
		b[0] = 'o'
	}
	if r.all {
		b[1] = 'a'
	}
	for _, name := range r.names {
		b = appendPart(b, name)
	}
	return string(b)
}

func boolean(m httpsfv.Member) (value, ok bool) {
	item, isItem := m.(httpsfv.Item)
	if !isItem {
		return false, false
	}
	value, ok = item.Value.(bool)
	return value, ok
}

func stringList(m httpsfv.Member) (list []string, ok bool) {
	inner, isList := m.(httpsfv.InnerList)
	if !isList {
		return nil, false
	}
	for _, item := range inner.Items {
		s, isString := item.Value.(string)
		if !isString {
			return nil, false
		}
		// The draft decodes names as application/x-www-form-urlencoded does.
		if decoded, err := url.QueryUnescape(s); err == nil {
			s = decoded
		}
		list = append(list, s)
	}
	return list, true
}

// apply returns what is left of query that makes a difference, in a form that is the same for equal
// ones.
func (r searchRule) apply(query string) string {
	type pair struct{ name, value string }
	var pairs []pair
	for part := range strings.SplitSeq(query, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		p := pair{formDecode(name), formDecode(value)}
		// Some servers begin a parameter behind a semicolon too.
		if _, listed := slices.BinarySearch(r.names, p.name); listed == r.all || strings.Contains(part, ";") {
			pairs = append(pairs, p)
		}
	}
	if r.keyOrder {
		slices.SortStableFunc(pairs, func(a, b pair) int { return strings.Compare(a.name, b.name) })
	}
	var b []byte
	for _, p := range pairs {
		b = appendPart(b, p.name)
		b = appendPart(b, p.value)
	}
	return string(b)
}

// formDecode decodes as the URL standard's application/x-www-form-urlencoded parser, for which a
// stray percent sign stands for itself.
func formDecode(s string) string {
	if !strings.ContainsAny(s, "+%") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			b = append(b, ' ')
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			b = append(b, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

const (
	maxRules = 4    // of one URL; the latest stay
	maxRuled = 4096 // URLs
)

// A ruleBook is the rules of URLs without their query.
type ruleBook struct {
	memory *Memory[Key, []searchRule]
	any    atomic.Bool // there are any
}

func newRuleBook() (*ruleBook, error) {
	m, err := NewMemory(MemoryConfig[Key, []searchRule]{MaxEntries: maxRuled})
	return &ruleBook{memory: m}, err
}

// learn remembers that responses for the path of x have rule.
func (c *Cache) learn(x *exchange, rule searchRule) {
	key := x.pathKey()
	rules, _ := c.rules.memory.Get(key)
	if len(rules) > 0 && rules[0].text == rule.text {
		return
	}
	for _, r := range rules {
		if r.text == rule.text {
			rule.mark = r.mark
		}
	}
	list := []searchRule{rule}
	for _, r := range rules {
		if r.text != rule.text && len(list) < maxRules {
			list = append(list, r)
		}
	}
	c.rules.memory.Set(key, list)
	c.rules.any.Store(true)
}

// pathKey returns what the rules of x's URL are known by.
func (x *exchange) pathKey() Key {
	scheme, host := x.origin()
	return hashOf([]byte(plainURL(scheme, host, x.r.URL.EscapedPath(), "")))
}

// ruleOf returns the rule of a response with header h. In a store that several processes share
// there is none: a purge in a process that has not met the rule would not find what another finds
// by it.
func (c *Cache) ruleOf(h http.Header) (searchRule, bool) {
	if c.shared {
		return searchRule{}, false
	}
	return parseNoVarySearch(h["No-Vary-Search"])
}

// rulesOf returns the rules of a URL without its query.
func (c *Cache) rulesOf(plain string) []searchRule {
	rules, _ := c.rules.memory.Get(hashOf([]byte(plain)))
	return rules
}
