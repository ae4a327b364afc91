// Package mirari reads the configuration of mirari, the tool that built
// MirageOS applications in 2013 before there was `mirage`, and writes what
// stands in its place today: a morgana.yaml and a sketch of a config.ml for
// MirageOS 4.
//
// A .conf is lines of "key: value", cut at the first colon, and comments:
//
//	ip-use-dhcp: true           or ip-address, ip-netmask, ip-gateway
//	fs-static: ../files         a folder, compiled in as a key-value store
//	http-port: 80               with http-address, "*" for any
//	main-http: Dispatch.main    exactly one of main-http, main-ip, main-noip
//	depends: cohttp.syntax, re  ocamlfind libraries; may be repeated
//	packages: cow               opam packages; may be repeated
//	compiler: 4.01.0+mirage-xen an opam switch
//	xl-memory: 32               copied into the .xl file; now of a target xen
//
// mirari passed over what it did not know. Here every line ends up in the files
// written or in [Conf.Notes], and one that cannot be read is an error.
package mirari
