package lifecycle

import (
	"net"
	"net/url"
)

// hostPort returns the host and port of a URL that has both; "" otherwise.
func hostPort(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return ""
	}
	return net.JoinHostPort(u.Hostname(), u.Port())
}
