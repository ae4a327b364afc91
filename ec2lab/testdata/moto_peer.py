"""Makes the same calls to the lab, whose endpoint is the argument, and to moto, and
prints where the answers differ. moto is asked only about what it does as EC2 does."""

import os
import sys

os.environ.update(MOTO_ENABLE_AMI_VALIDATION="true", MOTO_ENABLE_KEYPAIR_VALIDATION="true")
for name in [k for k, v in os.environ.items() if not v]:  # to the Go SDK it is as if unset
    del os.environ[name]

import boto3  # noqa: E402
import botocore.exceptions  # noqa: E402
import moto  # noqa: E402

TYPES = ["t1.micro", "m1.small", "m3.medium", "c3.large", "t2.micro", "t3.micro", "m5.large", "c7g.large"]


def facts(answer):
    return {
        t["InstanceType"]: [
            t["CurrentGeneration"], t["Hypervisor"], sorted(t["SupportedVirtualizationTypes"]), sorted(t["SupportedBootModes"]),
            sorted(t["ProcessorInfo"]["SupportedArchitectures"]), sorted(t["SupportedRootDeviceTypes"]), t["VCpuInfo"]["DefaultVCpus"],
            t["MemoryInfo"]["SizeInMiB"], t["NetworkInfo"]["EnaSupport"], t["EbsInfo"]["NvmeSupport"], t["EbsInfo"]["EncryptionSupport"], t["BareMetal"],
            t["BurstablePerformanceSupported"], sorted(t["SupportedUsageClasses"]), t["FreeTierEligible"],
        ] for t in answer["InstanceTypes"]
    }


def offers(answer):
    return sorted((o["InstanceType"], o["Location"], o["LocationType"]) for o in answer["InstanceTypeOfferings"])


def nothing(answer):
    return None


RSA = b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC1rgF6ywVMjmXaxh674Qz2UU2N9F4c4q1mK0VwjVWorYe8vPeSXO2aohj5nf+yq+/SC8M5RCmQ2GqVHvv3N/kYJHqIcuE8gpqlv1xgrE6VZ8cvhGQBVhHUnoDCnVhyUPrz4hBjxvfGET3Ik/SQL1jolRWF3W3R0vmHwTUpKALyyJeuXgJ60LvcmKUDg/ywFfMip0LMHvj/qI1wJkhUAm4Ztwpr/VFDDAEssEZD62Xnv3KDi7SoXEk6qpwUydjg+83BWCEZr84l8V9+TAfpl0dB7OE9weMaNQCZ9iNYyEDu9xi9XVeHQYa4yts+1DnsF8iN5cOj20FUSWtlq0wpUJxf"
RUN = {"ImageId": "ami-01234567", "MinCount": 1, "MaxCount": 1}
CALLS = [
    ("describe_instance_types", {"InstanceTypes": TYPES}, facts),
    ("describe_instance_types", {"InstanceTypes": ["t9.micro"]}, nothing),
    ("describe_instance_types", {"InstanceTypes": TYPES, "Filters": [{"Name": "supported-virtualization-type", "Values": ["paravirtual"]}]}, facts),
    *[("describe_instance_type_offerings", {"LocationType": by, "Filters": [{"Name": "instance-type", "Values": TYPES}]}, offers)
      for by in ("region", "availability-zone")],
    ("describe_security_groups", {"GroupIds": ["sg-01234567"]}, nothing),
    ("describe_security_groups", {"Filters": [{"Name": "group-name", "Values": ["default"]}]},
     lambda a: [(g["GroupName"], g["Description"]) for g in a["SecurityGroups"]]),
    ("describe_key_pairs", {"KeyNames": ["bob"]}, nothing),
    ("describe_images", {"ImageIds": ["ami-01234567"]}, nothing),
    ("describe_instances", {"InstanceIds": ["i-01234567"]}, nothing),
    ("describe_subnets", {"SubnetIds": ["subnet-01234567"]}, nothing),
    ("describe_volumes", {"VolumeIds": ["vol-01234567"]}, nothing),
    ("terminate_instances", {"InstanceIds": ["i-01234567"]}, nothing),
    ("deregister_image", {"ImageId": "ami-01234567"}, nothing),
    ("delete_snapshot", {"SnapshotId": "snap-01234567"}, nothing),
    ("run_instances", RUN, nothing),
    ("describe_availability_zones", {}, lambda a: [(z["ZoneName"], z["State"], z["ZoneType"]) for z in a["AvailabilityZones"]]),
    ("describe_subnets", {"DryRun": True}, nothing),
    ("import_key_pair", {"KeyName": "rsa", "PublicKeyMaterial": RSA}, lambda a: a["KeyFingerprint"]),
    ("import_key_pair", {"KeyName": "rsa", "PublicKeyMaterial": RSA}, nothing),
    ("describe_key_pairs", {"KeyNames": ["rsa"]}, lambda a: sorted((k["KeyName"], k["KeyType"], k["KeyFingerprint"]) for k in a["KeyPairs"])),
    ("delete_key_pair", {"KeyName": "none"}, nothing),
    ("create_security_group", {"GroupName": "helper", "Description": "d"}, nothing),
    ("create_security_group", {"GroupName": "helper", "Description": "d"}, nothing),
    *[("authorize_security_group_ingress", {"GroupName": "helper", "IpPermissions": [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": ip}]}]}, nothing)
      for ip in ("192.0.2.1/32", "192.0.2.1/32", "192.0.2.2/32", "192.0.2.3")],
    ("describe_security_groups", {"GroupNames": ["helper"]}, lambda a: sorted(
        (p["IpProtocol"], p["FromPort"], r["CidrIp"]) for g in a["SecurityGroups"] for p in g["IpPermissions"] for r in p["IpRanges"])),
    ("delete_security_group", {"GroupName": "helper"}, nothing),
    ("create_volume", {"AvailabilityZone": "eu-west-1a", "Size": 1}, lambda a: (a["Size"], a["VolumeType"], a["AvailabilityZone"])),
    ("delete_volume", {"VolumeId": "vol-01234567"}, nothing),
    ("create_snapshot", {"VolumeId": "vol-01234567"}, nothing),
    ("attach_volume", {"VolumeId": "vol-01234567", "InstanceId": "i-01234567", "Device": "/dev/sdf"}, nothing),
    ("describe_vpcs", {"Filters": [{"Name": "is-default", "Values": ["true"]}]}, lambda a: [(v["CidrBlock"], v["State"]) for v in a["Vpcs"]]),
]


def ask(client, call, args, pick):
    try:
        return pick(getattr(client, call)(**args))
    except botocore.exceptions.ClientError as e:
        return e.response["Error"]["Code"], e.response["ResponseMetadata"]["HTTPStatusCode"]


def main():
    session = boto3.Session(region_name="eu-west-1")
    lab = session.client("ec2", endpoint_url=sys.argv[1])
    ours = [ask(lab, *c) for c in CALLS]
    with moto.mock_aws():
        peer = session.client("ec2", endpoint_url="https://ec2.eu-west-1.amazonaws.com")
        theirs = [ask(peer, *c) for c in CALLS]
    for call, a, b in zip(CALLS, ours, theirs):
        if a != b:
            print(f"{call[0]} {call[1]}:\n\tthe lab {a}\n\tmoto    {b}")


main()
