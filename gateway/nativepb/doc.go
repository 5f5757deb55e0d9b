// Package nativepb has the messages of the native API: those of the KMS Instance SDK
// (dkms-gcs 0.2) for the operations that are served. It is
// generated from native.proto: `make generate`.
package nativepb
