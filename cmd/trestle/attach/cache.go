package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// checkCache is an error where a name in the cache of results that may be the container's is
// no regular file: libcni reads and writes there, and would wait for the other end of a FIFO.
func checkCache(container string) error {
	dir := inventory.DefaultSource().Results
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look into the cache of results: %w", err)
	}
	for _, entry := range entries {
		if !strings.Contains(entry.Name(), "-"+container+"-") {
			continue
		}
		file, err := rawfile.Open(filepath.Join(dir, entry.Name()))
		switch {
		case err == nil:
			_ = file.Close() // nothing was read
		case errors.Is(err, rawfile.ErrUnfit):
			return fmt.Errorf("cached result: %w; remove it", err)
		}
	}
	return nil
}
