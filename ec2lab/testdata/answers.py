"""Compares the answers of the lab, whose endpoint is the argument, with botocore's model:
it prints each element that the API does not have and each value of another type. The
services' reading operations are called, those that need no parameter."""

import os
import re
import sys
import time
import xml.etree.ElementTree as ET

import boto3

for unset in [k for k, v in os.environ.items() if not v]:  # to the Go SDK it is as if unset
    del os.environ[unset]

TYPES = {
    "integer": r"-?\d+", "long": r"-?\d+", "boolean": "true|false", "timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z",
}


KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


def walk(element, shape, at):
    children = [(re.sub("{.*}", "", c.tag), c) for c in element]
    if shape.type_name == "structure":
        members = {s.serialization.get("name", m): s for m, s in shape.members.items()}
        for name, child in children:
            if name in members:
                walk(child, members[name], f"{at}.{name}")
            elif name not in ("requestId", "ResponseMetadata"):
                print(f"{at} has {name}, which the API has not")
    elif shape.type_name == "list":
        wanted = shape.member.serialization.get("name", "member")
        for name, child in children:
            if name != wanted:
                print(f"{at} has {name} as an item and not {wanted}")
            walk(child, shape.member, at)
    elif children or element.text is None and shape.type_name != "string":
        print(f"{at} is no {shape.type_name}")
    elif not re.fullmatch(TYPES.get(shape.type_name, "(?s:.*)"), element.text or ""):
        print(f"{at} is {element.text!r} and no {shape.type_name}")
    elif getattr(shape, "enum", None) and element.text not in shape.enum:
        print(f"{at} is {element.text!r} and not one of {shape.enum}")


def check(response_dict, operation_model, **_):
    root = ET.fromstring(response_dict["body"])
    if response_dict["status_code"] != 200:
        print(operation_model.name, response_dict["body"].decode())
        return
    if operation_model.service_model.metadata["protocol"] == "query":
        root = root[0]
    walk(root, operation_model.output_shape, operation_model.name)


def main():
    session = boto3.Session(region_name="eu-west-1")
    for service, operations in {
        "ec2": ["describe_" + n for n in """addresses availability_zones images instance_type_offerings instance_types instances key_pairs
            network_interfaces placement_groups regions security_groups snapshots subnets volumes vpcs""".split()] + ["get_ebs_encryption_by_default"],
        "sts": ["get_caller_identity"],
        "elbv2": ["describe_target_groups"],
    }.items():
        client = session.client(service, endpoint_url=sys.argv[1])
        client.meta.events.register("before-parse", check)
        for operation in operations:
            getattr(client, operation)()
    client.describe_target_health(TargetGroupArn=client.describe_target_groups()["TargetGroups"][0]["TargetGroupArn"])
    client = session.client("ec2", endpoint_url=sys.argv[1])
    client.meta.events.register("before-parse", check)
    instances = [i["InstanceId"] for r in client.describe_instances()["Reservations"] for i in r["Instances"]]
    for i in instances:
        client.get_console_output(InstanceId=i)
    image = client.describe_images(Owners=["self"])["Images"][0]
    client.run_instances(ImageId=image["ImageId"], InstanceType="t3.micro", MinCount=1, MaxCount=1)
    client.import_key_pair(KeyName="helper", PublicKeyMaterial=KEY)
    group = client.create_security_group(GroupName="helper", Description="a helper")["GroupId"]
    client.authorize_security_group_ingress(GroupId=group, IpPermissions=[
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.1/32", "Description": "d"}], "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/64"}]},
        {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}])
    zone = client.describe_instances(InstanceIds=instances[:1])["Reservations"][0]["Instances"][0]["Placement"]["AvailabilityZone"]
    volume = client.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
    while client.describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"] != "available":
        time.sleep(0.01)
    client.attach_volume(VolumeId=volume, InstanceId=instances[0], Device="/dev/sdf")
    client.create_snapshot(VolumeId=volume)
    client.describe_key_pairs(KeyNames=["helper"])
    client.describe_security_groups(GroupIds=[group])
    client.describe_volumes()
    client.detach_volume(VolumeId=volume)
    client.delete_security_group(GroupId=group)
    client.delete_key_pair(KeyName="helper")
    client.terminate_instances(InstanceIds=instances)
    client = session.client("ssm", endpoint_url=sys.argv[1])
    name = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    if [client.get_parameter(Name=name)["Parameter"]] != client.get_parameters(Names=[name])["Parameters"]:
        print("get_parameter and get_parameters differ")


main()
