package balancer

import (
	"math/bits"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// What a scan reads of a host, and what a reply writes, is one cache line, and no other host's.
func TestHostsAreAlignedToCacheLines(t *testing.T) {
	if bits.UintSize < 64 { // pointers are shorter: there it is not worth the memory
		return
	}
	const line = 64
	require.LessOrEqual(t, unsafe.Offsetof(endpoint{}.answer), uintptr(line))
	for _, h := range pickGroup(t, Adaptive(), 100).endpoints {
		require.Zero(t, uintptr(unsafe.Pointer(h))%line, "hosts of %d bytes need padding", unsafe.Sizeof(*h))
	}
}
