package release

import (
	"os"
	"testing"
)

// Get returns a mirror with all Versions for a test, and makes what is missing: the first time takes minutes.
func Get(t testing.TB) Mirror {
	t.Helper()
	m, err := Build(t.Context(), os.Stderr, Versions...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Dir returns the directory of the mirror for a test, like Get.
func Dir(t testing.TB) string {
	t.Helper()
	return string(Get(t))
}
