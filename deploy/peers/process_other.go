//go:build !linux

package main

import (
	"os/exec"
	"syscall"
)

// endsWithParent: only Linux can end a process together with its parent.
// Elsewhere a kill -9 of this process leaves its backend running.
func endsWithParent(cmd *exec.Cmd, _ syscall.Signal) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}
