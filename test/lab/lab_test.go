package lab

import (
	"fmt"
	"testing"
	"time"
)

func TestHostsBoot(t *testing.T) {
	t0 := time.Now()
	l := Up(t, 5)
	fmt.Println("up", time.Since(t0))
	for _, h := range l.Hosts {
		t0 := time.Now()
		fmt.Print(h.Run("sh", "-c", "hostname; cat /etc/machine-id; cat /proc/self/cgroup; ip -br a; systemctl is-system-running; stat -f -c %T /sys/fs/cgroup"))
		fmt.Println(time.Since(t0))
	}
	t0 = time.Now()
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	fmt.Println("down", time.Since(t0))
}
