//go:build unix

package freeport_test

import (
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/trivet-go/trivet/internal/freeport"
)

func TestReservedAddressRefusesUntilSomebodyListens(t *testing.T) {
	addr := freeport.Reserve(t)
	for range 3 {
		_, err := net.Dial("tcp", addr)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)

		ln, err := net.Listen("tcp", addr)
		require.NoError(t, err)
		conn, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		require.NoError(t, ln.Close())
	}
}

func TestReservedAddressesDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		addr := freeport.Reserve(t)
		require.False(t, seen[addr])
		seen[addr] = true
	}
}
