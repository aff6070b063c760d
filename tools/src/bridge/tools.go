//go:build tools

// Package tools pins what is built here.
package tools

import _ "github.com/pulumi/pulumi-terraform-bridge/v3/dynamic"
