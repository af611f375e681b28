//go:build !linux

package bench

import "errors"

func mountDisk(string) (disk, error) { return nil, errors.New("disks that can hang need Linux") }
