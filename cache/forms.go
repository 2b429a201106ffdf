package cache

// maxNormal is the longest value of a field that is brought into a normal form. Longer ones are
// compared as they are: what means the same then makes two variants, and no client can make the
// cache sort a megabyte.
const maxNormal = 4 << 10

// forms remembers the normal forms of one request's fields, which are compared with those of every
// stored variant.
type forms struct {
	list []fieldForm
}

type fieldForm struct{ name, form string }

// of returns the normal form of the values that the request has for the field name.
func (m *forms) of(name string, values []string) string {
	for i := range m.list {
		if m.list[i].name == name {
			return m.list[i].form
		}
	}
	form := normalForm(name, values)
	m.list = append(m.list, fieldForm{name, form})
	return form
}

// reset forgets everything, and keeps the room.
func (m *forms) reset() {
	clear(m.list)
	m.list = m.list[:0]
}
