package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/trestle-cni/trestle/cmd/trestle/ui"
	"github.com/trestle-cni/trestle/pkg/cni"
)

// drawing is a flag that names a file to write; file is "" where the flag is not given.
type drawing struct{ flag, file string }

// drawings are all such flags of a command.
type drawings []drawing

// toStdout is the file name that stands for standard output.
const toStdout = "-"

// check refuses files that cannot be written, before the host is read.
func (d drawings) check(p *ui.Printer) error {
	onStdout := ""
	for _, one := range d {
		switch {
		case one.file == "":
		case one.file == toStdout && onStdout != "":
			return cni.ConfigErrorf("%s: standard output has %s already; name a file", one.flag, onStdout)
		case one.file == toStdout && p.JSON:
			return cni.ConfigErrorf("%s: standard output has the answer in JSON; name a file", one.flag)
		case one.file == toStdout:
			onStdout = one.flag
		default:
			if err := one.check(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d drawing) check() error {
	if info, err := os.Stat(d.file); err == nil && info.IsDir() {
		return cni.ConfigErrorf("%s: %s is a directory; name a file in it", d.flag, d.file)
	}
	dir := filepath.Dir(d.file)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return cni.ConfigErrorf("%s: there is no directory %s; make it, or name another file than %s", d.flag, dir, d.file)
	}
	return nil
}

func (d drawings) none() bool {
	for _, one := range d {
		if one.file != "" {
			return false
		}
	}
	return true
}

// write draws each file, and prints the names of the files that it has written.
func (d drawings) write(p *ui.Printer, draw func(flag string) (string, error)) error {
	files := []string{}
	quiet := false
	for _, one := range d {
		if one.file == "" {
			continue
		}
		content, err := draw(one.flag)
		if err != nil {
			return fmt.Errorf("%s: %w", one.flag, err)
		}
		if one.file == toStdout {
			quiet = true
			p.Printf("%s", content)
			continue
		}
		if err := replaceFile(one.file, content); err != nil {
			return fmt.Errorf("%s: %w", one.flag, err)
		}
		files = append(files, one.file)
	}
	if quiet {
		return nil
	}
	if p.JSON {
		return p.Document(map[string][]string{"files": files})
	}
	for _, file := range files {
		p.Printf("%s\n", file)
	}
	return nil
}

// replaceFile replaces a regular file by a rename, so that readers find the old or the new
// content. Anything else (a link such as /dev/stdout, a pipe) is written to.
func replaceFile(name, content string) (err error) {
	if info, err := os.Lstat(name); err == nil && !info.Mode().IsRegular() {
		return os.WriteFile(name, []byte(content), 0o644)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.WriteString(content)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	return err
}
