package main

import (
	"os/exec"
	"syscall"
)

// endsWithParent lets cmd get the signal when this process ends in whatever
// way, kill -9 included. A process group of its own keeps a terminal's ^C away
// from it: this process ends it in order.
func endsWithParent(cmd *exec.Cmd, stop syscall.Signal) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = stop
}
