package versioning

import (
	"net/http"
	"strings"
)

// mergeVary adds names to the field Vary unless they are there already, or "*" is, which says more.
// line is the names in one value; room is where it may stand.
func mergeVary(h http.Header, names []string, line string, room *[1]string) {
	if len(names) == 0 {
		return
	}
	have := h["Vary"]
	if len(have) == 0 {
		room[0] = line
		h["Vary"] = room[:1:1]
		return
	}
	if len(have) == 1 && have[0] == line {
		return
	}
	var missing []string
	for _, name := range names {
		if !listed(have, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 && !listed(have, "*") {
		h["Vary"] = append(have[:len(have):len(have)], strings.Join(missing, ", "))
	}
}

// listed reports whether name is an element of the lists in lines, in any case.
func listed(lines []string, name string) bool {
	for _, line := range lines {
		for line != "" {
			var element string
			element, line, _ = strings.Cut(line, ",")
			if strings.EqualFold(strings.Trim(element, " \t"), name) {
				return true
			}
		}
	}
	return false
}

// appendUnique appends names that list lacks.
func appendUnique(list []string, names ...string) []string {
	for _, name := range names {
		if !listed(list, name) {
			list = append(list, name)
		}
	}
	return list
}
