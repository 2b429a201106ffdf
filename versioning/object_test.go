package versioning_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/trivet-go/trivet/versioning"
)

func parseObject(t testing.TB, text string) *versioning.Object {
	t.Helper()
	o := versioning.NewObject()
	require.NoError(t, json.Unmarshal([]byte(text), o))
	return o
}

func text(t testing.TB, v any) string {
	t.Helper()
	b, err := v.(json.Marshaler).MarshalJSON()
	require.NoError(t, err)
	return string(b)
}

func TestObject(t *testing.T) {
	o := parseObject(t,
		` {"b" : 1.50, "a":"x\u00e9y", "n":null , "t":true,"o":{"y":1,"x":2},"l":[1, {"k":"v"} ,[]],`+
			` "é\n":0} `)
	require.Equal(t, []string{"b", "a", "n", "t", "o", "l", "é\n"}, o.Names())
	require.Equal(t, json.Number("1.50"), o.Get("b"))
	require.Equal(t, "xéy", o.Get("a"))
	require.Nil(t, o.Get("n"))
	require.True(t, o.Has("n"))
	require.False(t, o.Has("m"))
	require.Equal(t, true, o.Get("t"))
	require.Equal(t, json.Number("2"), o.Object("o").Get("x"))
	require.Equal(t, 3, o.Array("l").Len())
	for child := range o.Array("l").Objects() {
		child.Set("k", "w")
	}
	require.True(t, o.Rename("a", "z"))
	require.False(t, o.Rename("a", "z"))
	require.True(t, o.Rename("t", "b"), "what was there is replaced, the place is that of the renamed")
	require.True(t, o.Rename("z", "z"))
	require.True(t, o.Delete("n"))
	require.False(t, o.Delete("n"))
	o.Set("new", map[string]any{"<": []int{1}})
	o.Object("o").Set("y", versioning.NewArray(1, "two", nil))
	require.Equal(t, `{"z":"x\u00e9y","b":true,"o":{"y":[1,"two",null],"x":2},"l":[1,{"k":"w"},[]],`+
		`"é\n":0,"new":{"<":[1]}}`, text(t, o))

	var none *versioning.Object
	require.Zero(t, none.Object("a").Array("b").Len())
	require.Nil(t, none.Get("x"))
	require.False(t, none.Delete("x") || none.Rename("x", "y") || none.Has("x"))
	require.Empty(t, none.Names())
}

// Numbers, escapes, and whatever no change looks into stay byte for byte.
func TestUntouchedValuesStay(t *testing.T) {
	const body = `{"id":12345678901234567890,"f":1.0,"e":1E+2,"z":-0,"s":"\u0041\/\ud800","t":"<&>",` +
		`"o":{ "b" : 1 , "a" : 2 },"l":["\ud800", 1.10]}`
	o := parseObject(t, body)
	o.Set("new", 1)
	require.Equal(t, "A/\uFFFD", o.Get("s"), "as it reads")
	require.Equal(t, 2, o.Array("l").Len())
	require.Equal(t, strings.Replace(strings.TrimSuffix(body, "}"), `["\ud800", 1.10]`, `["\ud800",1.10]`, 1)+
		`,"new":1}`, text(t, o))
}

// Of members with one name everybody reads the last, before and after the conversion.
func TestDuplicateMembers(t *testing.T) {
	o := parseObject(t, `{"role":"user","a":1,"r\u006fle":"admin"}`)
	require.Equal(t, "admin", o.Get("role"))
	require.Equal(t, `{"role":"admin","a":1}`, text(t, o))
	// Many members are no quadratic work: this takes seconds if each is compared with each.
	var b strings.Builder
	b.WriteByte('{')
	for i := range 100_000 {
		fmt.Fprintf(&b, `"k%d":%d,`, i%90_000, i)
	}
	b.WriteString(`"end":0}`)
	big := parseObject(t, b.String())
	require.Equal(t, 90_001, big.Len())
	require.Equal(t, json.Number("90000"), big.Get("k0"))
}

// Whatever is done to an Object, it reads like a map to which the same is done.
func TestObjectIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.MapOf(rapid.StringN(0, 3, -1), rapid.Int()).Draw(t, "start")
		b, err := json.Marshal(start)
		require.NoError(t, err)
		o := versioning.NewObject()
		require.NoError(t, json.Unmarshal(b, o))
		want := map[string]any{}
		for k, v := range start {
			want[k] = v
		}
		names := rapid.SampledFrom(append(o.Names(), "x", "y", "é"))
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			name, to := names.Draw(t, "name"), names.Draw(t, "to")
			_, had := want[name]
			switch rapid.IntRange(0, 2).Draw(t, "op") {
			case 0:
				o.Set(name, 7)
				want[name] = 7
			case 1:
				require.Equal(t, had, o.Delete(name))
				delete(want, name)
			case 2:
				require.Equal(t, had, o.Rename(name, to))
				if had && name != to {
					want[to] = want[name]
					delete(want, name)
				}
			}
		}
		got, err := o.MarshalJSON()
		require.NoError(t, err)
		expected, err := json.Marshal(want)
		require.NoError(t, err)
		require.JSONEq(t, string(expected), string(got))
		require.Equal(t, len(want), o.Len())
	})
}
