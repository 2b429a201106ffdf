//go:build unix

package wire

import "syscall"

const canPeek = true

// peekFD returns errQuiet if there is nothing to read.
func peekFD(fd uintptr, buf []byte) error {
	for {
		_, _, err := syscall.Recvfrom(int(fd), buf, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return errQuiet
		}
		return err
	}
}
