module github.com/kmsgate/kmsgate

go 1.26.0

require (
	github.com/ThalesGroup/crypto11 v1.6.1
	github.com/decred/dcrd/dcrec/secp256k1/v4 v4.4.1
	github.com/emmansun/gmsm v0.44.1
	github.com/miekg/pkcs11 v1.1.2
	golang.org/x/crypto v0.57.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/pkg/errors v0.9.1 // indirect
	github.com/thales-e-security/pool v0.0.2 // indirect
)
