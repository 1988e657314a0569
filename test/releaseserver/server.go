// Package releaseserver serves a directory of releases as upstream does, and as servers and networks do on their worse days.
//
// The first element of a URL's path chooses the behaviour, the rest is a file of the directory:
//
//	http://127.0.0.1:PORT/truncated/v3.6.14/etcd-v3.6.14-linux-amd64.tar.gz
package releaseserver

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// modes are the behaviours. Lists of digests are always served whole, except by those that say otherwise; a fault of
// the archive is what they are there for.
var modes = map[string]func(*Server, *answer){
	"ok":           (*Server).whole,        // ranges, ETag, Last-Modified
	"norange":      (*Server).norange,      // no ranges, no validators
	"chunked":      (*Server).chunked,      // does not tell the length
	"slow":         (*Server).slow,         // in pieces, with pauses
	"stall":        (*Server).stall,        // the first half, then silence
	"silent":       (*Server).silent,       // takes the request, and never answers
	"truncated":    (*Server).truncated,    // promises all, sends the first half, always; no ranges
	"corrupt":      (*Server).corrupt,      // one byte is another
	"e404":         (*Server).notFound,     // nothing is there, not even digests
	"e503":         (*Server).unavailable,  // the first Failures requests for each file
	"cut":          (*Server).cut,          // ends the connection after the first half, Failures times for each file; ranges
	"reset":        (*Server).reset,        // resets the connection after the first half, Failures times for each file
	"redirect":     (*Server).redirect,     // once, to ok
	"redirectloop": (*Server).redirectLoop, // for ever
	"redirectfile": (*Server).redirectFile, // to a file: URL
	"wronglength":  (*Server).wrongLength,  // promises more than there is
	"nosums":       (*Server).nosums,       // has no list of digests
	"htmlsums":     (*Server).htmlsums,     // has a page in the place of a list of digests
	"othersums":    (*Server).othersums,    // has lists with other digests
}

// Request is a request that the server got.
type Request struct {
	Path, Range, IfRange, UserAgent string
}

// Server is the handler. Its fields are set before it serves.
type Server struct {
	Dir        string        // with v<X.Y.Z> directories
	Failures   int           // how often a passing fault shows; Start sets 2
	Pause      time.Duration // of slow, between two of its pieces; Start sets 10 ms
	Pieces     int           // of slow; Start sets 20
	RetryAfter string        // header of e503

	URL string // set by Start: http://127.0.0.1:PORT

	mu       sync.Mutex
	failures map[string]int
	requests []Request
	http     *http.Server
}

// Start serves a directory at a free port of 127.0.0.1 until Close.
func Start(dir string) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, Failures: 2, Pause: 10 * time.Millisecond, Pieces: 20, URL: "http://" + l.Addr().String()}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.http.Serve(l) }()
	return s, nil
}

// Close ends the server and every connection.
func (s *Server) Close() error { return s.http.Close() }

// Base is the release URL of a mode: "http://127.0.0.1:PORT/stall".
func (s *Server) Base(mode string) string { return s.URL + "/" + mode }

// Requests are those that came so far, in order.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// answer is a request on its way: name is the file below the directory, data what it holds.
type answer struct {
	http.ResponseWriter
	req  *http.Request
	name string
	data []byte
	time time.Time
}

func (a *answer) sums() bool {
	return path.Base(a.name) == "SHA256SUMS" || strings.HasSuffix(a.name, ".sha256")
}

// ServeHTTP answers in the way that the path chooses.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, Request{r.URL.Path, r.Header.Get("Range"), r.Header.Get("If-Range"), r.UserAgent()})
	s.mu.Unlock()
	mode, name, _ := strings.Cut(strings.TrimPrefix(path.Clean(r.URL.Path), "/"), "/")
	serve, known := modes[mode]
	if !known {
		http.Error(w, fmt.Sprintf("%q is no mode of this server", mode), http.StatusBadRequest)
		return
	}
	a := &answer{ResponseWriter: w, req: r, name: name}
	file := filepath.Join(s.Dir, filepath.FromSlash(name))
	data, err := os.ReadFile(file)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	a.data = data
	if info, err := os.Stat(file); err == nil {
		a.time = info.ModTime()
	}
	serve(s, a)
}

func (a *answer) tag() string { return fmt.Sprintf(`"%x-%x"`, a.time.UnixNano(), len(a.data)) }

func (s *Server) whole(a *answer) {
	a.Header().Set("ETag", a.tag())
	http.ServeContent(a, a.req, a.name, a.time, bytes.NewReader(a.data))
}

func (s *Server) norange(a *answer) { a.send(len(a.data), len(a.data)) }

// send promises one length and sends so many bytes of the file.
func (a *answer) send(promised, sent int) {
	a.Header().Set("Content-Length", strconv.Itoa(promised))
	_, _ = a.Write(a.data[:sent])
	a.flush()
}

func (a *answer) flush() { _ = http.NewResponseController(a.ResponseWriter).Flush() }

func (s *Server) chunked(a *answer) {
	a.flush()
	_, _ = a.Write(a.data)
}

func (s *Server) slow(a *answer) {
	a.Header().Set("Content-Length", strconv.Itoa(len(a.data)))
	for i := range s.Pieces {
		_, _ = a.Write(a.data[i*len(a.data)/s.Pieces : (i+1)*len(a.data)/s.Pieces])
		a.flush()
		select {
		case <-a.req.Context().Done():
			return
		case <-time.After(s.Pause):
		}
	}
}

func (s *Server) stall(a *answer) {
	if a.sums() {
		s.whole(a)
		return
	}
	a.send(len(a.data), len(a.data)/2)
	<-a.req.Context().Done()
}

func (s *Server) silent(a *answer) { <-a.req.Context().Done() }

func (s *Server) truncated(a *answer) {
	if a.sums() {
		s.whole(a)
		return
	}
	a.send(len(a.data), len(a.data)/2)
	panic(http.ErrAbortHandler)
}

func (s *Server) corrupt(a *answer) {
	if !a.sums() {
		a.data = bytes.Clone(a.data)
		a.data[len(a.data)/2] ^= 0xff
	}
	s.whole(a)
}

func (s *Server) notFound(a *answer) { http.NotFound(a, a.req) }

// fails tells whether this request meets the fault.
func (s *Server) fails(a *answer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures == nil {
		s.failures = map[string]int{}
	}
	s.failures[a.req.URL.Path]++
	return s.failures[a.req.URL.Path] <= s.Failures
}

func (s *Server) unavailable(a *answer) {
	if !s.fails(a) {
		s.whole(a)
		return
	}
	if s.RetryAfter != "" {
		a.Header().Set("Retry-After", s.RetryAfter)
	}
	http.Error(a, "try again later", http.StatusServiceUnavailable)
}

func (s *Server) cut(a *answer) {
	if a.sums() || !s.fails(a) {
		s.whole(a)
		return
	}
	a.Header().Set("ETag", a.tag())
	a.send(len(a.data), len(a.data)/2)
	panic(http.ErrAbortHandler)
}

func (s *Server) reset(a *answer) {
	if a.sums() || !s.fails(a) {
		s.whole(a)
		return
	}
	a.send(len(a.data), len(a.data)/2)
	conn, _, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // the kernel answers with RST from now on
	}
	_ = conn.Close()
}

func (s *Server) redirect(a *answer) {
	http.Redirect(a, a.req, "/ok/"+a.name, http.StatusFound)
}

func (s *Server) redirectLoop(a *answer) {
	http.Redirect(a, a.req, a.req.URL.Path, http.StatusFound)
}

func (s *Server) redirectFile(a *answer) {
	http.Redirect(a, a.req, "file://"+filepath.Join(s.Dir, a.name), http.StatusFound)
}

func (s *Server) wrongLength(a *answer) {
	if a.sums() {
		s.whole(a)
		return
	}
	a.send(len(a.data)+1000, len(a.data))
}

func (s *Server) nosums(a *answer) {
	if a.sums() {
		s.notFound(a)
		return
	}
	s.whole(a)
}

func (s *Server) htmlsums(a *answer) {
	if a.sums() {
		a.data = []byte("<!doctype html>\n<title>Sign in</title>\n")
	}
	s.whole(a)
}

func (s *Server) othersums(a *answer) {
	if a.sums() {
		a.data = []byte(strings.Repeat("0", 64) + string(a.data[64:]))
	}
	s.whole(a)
}
