package main

import "github.com/trestle-cni/trestle/pkg/cni"

// input makes an error a mistake of the user's; nil stays nil.
func input(err error) error {
	if err == nil {
		return nil
	}
	return cni.ConfigErrorf("%w", err)
}
