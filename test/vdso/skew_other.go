//go:build !amd64

package vdso

import (
	"fmt"
	"runtime"
	"time"
)

// Skew is not known how to do here.
func Skew(int, time.Duration) error {
	return fmt.Errorf("a wrong clock on %s is not known how to make", runtime.GOARCH)
}
