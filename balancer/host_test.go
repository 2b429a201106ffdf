package balancer

import (
	"math/bits"
	"runtime"
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
	require.LessOrEqual(t, unsafe.Offsetof(host{}.report), uintptr(line))
	hosts := make([]*host, 100) // kept, so that they are not on the stack, which knows of no lines
	for i := range hosts {
		hosts[i] = new(host)
		require.Zero(t, uintptr(unsafe.Pointer(hosts[i]))%line, "hosts of %d bytes need padding", unsafe.Sizeof(host{}))
	}
	runtime.KeepAlive(hosts)
}
