// Command tfgen makes info/schema.json and info/bridge-metadata.json again: ./generate
package main

import (
	"github.com/terraform-providers/terraform-provider-random/nixvm/info"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfgen"
)

func main() {
	tfgen.Main("random", info.Provider())
}
