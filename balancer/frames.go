package balancer

import (
	"crypto/rand"
	"encoding/binary"
)

// A frames follows the frames of a websocket connection in one direction (RFC 6455, section 5.2).
// It knows where one ends and the next may begin.
type frames struct {
	head   [14]byte // of the frame that has begun
	have   int      // bytes of head; 0 within a payload
	left   uint64   // bytes of the payload that are still to come
	closed bool     // a close frame has begun
}

// advance takes note of p, which follows what came before.
func (f *frames) advance(p []byte) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(uint64(len(p)), f.left)
			f.left -= n
			p = p[n:]
			continue
		}
		f.head[f.have] = p[0]
		f.have++
		p = p[1:]
		if f.have < 2 || f.have < f.headLength() {
			continue
		}
		f.closed = f.closed || f.head[0]&0x0F == opClose
		f.left = f.payloadLength()
		f.have = 0
	}
}

const opClose = 8

// headLength is the length of the frame's header, of which there are two bytes at least.
func (f *frames) headLength() int {
	n := 2
	switch f.head[1] & 0x7F {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.head[1]&0x80 != 0 { // masked
		n += 4
	}
	return n
}

func (f *frames) payloadLength() uint64 {
	switch n := f.head[1] & 0x7F; n {
	case 126:
		return uint64(binary.BigEndian.Uint16(f.head[2:]))
	case 127:
		return binary.BigEndian.Uint64(f.head[2:])
	default:
		return uint64(n)
	}
}

// whole reports whether no frame has been sent in part. A control frame may then follow, even
// within a message of several frames (RFC 6455, section 5.4).
func (f *frames) whole() bool { return f.have == 0 && f.left == 0 }

// goingAway returns a close frame with the status 1001 (RFC 6455, section 7.4.1).
func goingAway(masked bool) []byte {
	const status = 1001
	if !masked {
		return []byte{0x80 | opClose, 2, status >> 8, status & 0xFF}
	}
	frame := []byte{0x80 | opClose, 0x80 | 2, 0, 0, 0, 0, status >> 8, status & 0xFF}
	mask := frame[2:6]
	_, _ = rand.Read(mask) // never fails
	frame[6] ^= mask[0]
	frame[7] ^= mask[1]
	return frame
}
