package bench

import "github.com/roomlog/roomlog/internal/faultfs"

// faultDisk is a file system in memory.
type faultDisk struct{ *faultfs.FS }

func mountDisk(dir string) (disk, error) {
	f, err := faultfs.Mount(dir, faultfs.Options{})
	if err != nil {
		return nil, err
	}
	return faultDisk{f}, nil
}

func (d faultDisk) stall() (off func()) {
	return d.Inject(faultfs.Fault{Ops: faultfs.Syncs, Stall: faultfs.UntilOff}).Off
}
