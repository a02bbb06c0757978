package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"

	"github.com/trestle-cni/trestle/cmd/trestle/inventory"
	"github.com/trestle-cni/trestle/pkg/cni"
	"github.com/trestle-cni/trestle/pkg/rawfile"
)

// cached is what DEL needs of an attachment in libcni's cache (its cachedInfo).
type cached struct {
	Kind           string         `json:"kind"`
	ContainerID    string         `json:"containerId"`
	IfName         string         `json:"ifName"`
	NetworkName    string         `json:"networkName"`
	Config         []byte         `json:"config"`
	CNIArgs        [][2]string    `json:"cniArgs"`
	CapabilityArgs map[string]any `json:"capabilityArgs"`
}

// cachedOf reads what libcni has cached of one attachment; the zero value if that is nothing, or
// nothing that can be used, as libcni has it. Anything but a regular file is an error, since libcni
// would read and write there next, and wait for the other end of a FIFO. libcni's
// GetCachedAttachments also opens whatever has the container's name in its own, of any network.
func cachedOf(of cni.Owner) (cached, error) {
	path := filepath.Join(inventory.DefaultSource().Results, of.Network+"-"+of.ContainerID+"-"+of.IfName)
	data, err := rawfile.Read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return cached{}, nil
	case errors.Is(err, rawfile.ErrUnfit):
		return cached{}, fmt.Errorf("cached result: %w; remove it", err)
	case err != nil:
		return cached{}, fmt.Errorf("cached result: %w", err)
	}
	var c cached
	if err := cni.Unmarshal(data, &c); err != nil || c.Kind != libcni.CNICacheV1 {
		return cached{}, nil
	}
	if (cni.Owner{Network: c.NetworkName, ContainerID: c.ContainerID, IfName: c.IfName}) != of {
		return cached{}, nil // network a-b, container c has the same file as network a, container b-c
	}
	return c, nil
}
