// Loaded into the program before anything else: a host that was killed cannot stop its program, and a program without
// an engine would wait for ever.
"use strict";

const parent = process.ppid;
setInterval(() => process.ppid !== parent && process.exit(1), 1000).unref();
