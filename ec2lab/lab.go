// Package ec2lab is an EC2 on loopback, for tests: the EC2 Query API, the EBS direct
// APIs, and as much of STS and Elastic Load Balancing as a deploy needs. AWS's own SDK
// speaks to it. Its instances are real machines of a [Hypervisor].
//
// The lab refuses what AWS refuses. Each request is checked against the API model that
// the SDK ships, and against the rules that the model lacks. It misbehaves on demand: see
// [Fault].
package ec2lab
