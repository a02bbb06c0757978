package runtimes

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

// Image is the name of the image that the tests' containers are made from:
// busybox under the names of its applets, and the program of ./peer.
const Image = "localhost/trestle-test:1"

// imageArchive makes an image of the name as `docker save` writes one, which every
// runtime reads (moby/moby, image/spec/v1.2.md). Besides busybox it has the files, by
// their places in the image.
func imageArchive(name string, files map[string]string) ([]byte, error) {
	layer, err := imageLayer(files)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"created":      "1970-01-01T00:00:00Z",
		"config":       map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"sleep", "3600"}, "WorkingDir": "/"},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]map[string]any{
		{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}},
	})
	if err != nil {
		return nil, err
	}
	var archive tarball
	archive.file("manifest.json", 0o644, manifest)
	archive.file("config.json", 0o644, config)
	archive.file("layer.tar", 0o644, layer)
	return archive.close()
}

func imageLayer(files map[string]string) ([]byte, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", path, err)
	}
	var layer tarball
	for _, dir := range []string{"bin", "dev", "etc", "proc", "sys", "tmp"} {
		layer.entry(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	layer.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\n"))
	all := map[string]string{"bin/busybox": path}
	maps.Copy(all, files)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		content, err := os.ReadFile(all[name])
		if err != nil {
			return nil, err
		}
		layer.file(name, 0o755, content)
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			layer.entry(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	return layer.close()
}

// tarball is a tar archive in the making. It keeps the first error until close.
type tarball struct {
	buffer bytes.Buffer
	writer *tar.Writer
	err    error
}

func (t *tarball) file(name string, mode int64, content []byte) {
	t.entry(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}, content)
}

func (t *tarball) entry(header tar.Header, content []byte) {
	if t.writer == nil {
		t.writer = tar.NewWriter(&t.buffer)
	}
	if t.err == nil {
		t.err = t.writer.WriteHeader(&header)
	}
	if t.err == nil {
		_, t.err = io.Copy(t.writer, bytes.NewReader(content))
	}
}

func (t *tarball) close() ([]byte, error) {
	if t.err != nil {
		return nil, t.err
	}
	err := t.writer.Close()
	return t.buffer.Bytes(), err
}
