//go:build !amd64

package lab

import (
	"fmt"
	"runtime"
	"time"
)

func skewProcess(int, time.Duration) error {
	return fmt.Errorf("a wrong clock on %s is not known how to make", runtime.GOARCH)
}
