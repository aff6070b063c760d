//go:build tools

// Package tools pins what is built here.
package tools

import _ "github.com/dmacvicar/terraform-provider-libvirt"
