package balancer

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// frame returns a websocket frame.
func frame(op byte, masked bool, payload int) []byte {
	b := []byte{0x80 | op, 0}
	switch {
	case payload < 126:
		b[1] = byte(payload)
	case payload < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(payload))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(payload))
	}
	if masked {
		b[1] |= 0x80
		b = append(b, 1, 2, 3, 4)
	}
	return append(b, make([]byte, payload)...)
}

func TestFramesAreFollowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		ends, closed := map[int]bool{0: true}, -1
		for range rapid.IntRange(1, 8).Draw(t, "frames") {
			op := rapid.SampledFrom([]byte{0, 1, 2, 8, 9, 10}).Draw(t, "op")
			size := rapid.SampledFrom([]int{0, 1, 125, 126, 127, 65535, 65536, 70000}).Draw(t, "size")
			f := frame(op, rapid.Bool().Draw(t, "masked"), size)
			if op == opClose && closed < 0 {
				closed = len(stream)
			}
			stream = append(stream, f...)
			ends[len(stream)] = true
		}
		var f frames
		for at := 0; at < len(stream); {
			n := min(rapid.SampledFrom([]int{1, 2, 3, 10, 1000, 60000}).Draw(t, "piece"), len(stream)-at)
			f.advance(stream[at : at+n])
			at += n
			if f.whole() != ends[at] {
				t.Fatalf("after %d of %d bytes whole is %v", at, len(stream), f.whole())
			}
			begun := closed >= 0 && at > closed
			if f.closed && !begun || f.whole() && begun && !f.closed {
				t.Fatalf("after %d bytes closed is %v, a close frame begins at %d", at, f.closed, closed)
			}
		}
	})
}

func TestGoingAway(t *testing.T) {
	require.Equal(t, []byte{0x88, 2, 0x03, 0xE9}, goingAway(false))
	f := goingAway(true)
	require.Equal(t, []byte{0x88, 0x82}, f[:2])
	require.Equal(t, []byte{0x03, 0xE9}, []byte{f[6] ^ f[2], f[7] ^ f[3]})
}
