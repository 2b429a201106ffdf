package balancer

import (
	"math/bits"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// What a scan reads of an endpoint, and what a reply writes, lies in one cache line, which holds
// nothing of another endpoint.
func TestEndpointsAreAlignedToCacheLines(t *testing.T) {
	if bits.UintSize < 64 { // pointers are shorter: there it is not worth the memory
		return
	}
	const line = 64
	require.LessOrEqual(t, unsafe.Offsetof(endpoint{}.answer), uintptr(line))
	for _, h := range pickGroup(t, Adaptive(), 100).endpoints {
		size := unsafe.Sizeof(*h)
		require.Zero(t, uintptr(unsafe.Pointer(h))%line, "endpoints of %d bytes need padding", size)
	}
}
