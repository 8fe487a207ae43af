"""cluster/aws.yaml on a pretended EC2: Ray's own provider prepares it and asks for the machines."""

import copy
import time
from pathlib import Path

import boto3
import pytest
import yaml

pytestmark = [pytest.mark.e2e, pytest.mark.long]

FILE = Path(__file__).parents[2] / "cluster" / "aws.yaml"


@pytest.fixture
def cloud(monkeypatch, tmp_path):
    """A client of a pretended EC2; keys that Ray makes go into a folder of the test."""
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # Ray waits half a minute for the cloud's own delays
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield boto3.client("ec2", region_name="eu-central-1")


def ingress(cloud, group):
    return cloud.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]


def test_machines(cloud):
    """The head is on demand, workers are spot; both are in the named group alone, which gets no rule from Ray."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config, validate_config

    vpc = cloud.describe_vpcs()["Vpcs"][0]["VpcId"]
    group = cloud.create_security_group(GroupName="study-ray", Description="Ray of study", VpcId=vpc)["GroupId"]
    image = cloud.describe_images()["Images"][0]["ImageId"]
    text = FILE.read_text().replace("sg-00000000000000000", group).replace("ami-00000000000000000", image)
    assert "00000000" not in text
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    config = bootstrap_aws(config)
    config = AWSNodeProvider.fillout_available_node_types_resources(config)
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert (types["gpu"]["resources"]["CPU"], types["gpu"]["resources"]["GPU"]) == (8, 1)

    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for kind in ("head", "gpu"):
        provider.create_node(copy.deepcopy(types[kind]["node_config"]), {"ray-node-type": kind}, 1)
    found = [each for one in cloud.describe_instances()["Reservations"] for each in one["Instances"]]
    assert [(each["InstanceType"], each.get("InstanceLifecycle")) for each in found] == [
        ("m7i.xlarge", None),
        ("g6.2xlarge", "spot"),
    ]
    for each in found:
        assert [one["GroupId"] for one in each["SecurityGroups"]] == [group]
        assert each["MetadataOptions"]["HttpTokens"] == "required"
        assert each["BlockDeviceMappings"][0]["Ebs"]["DeleteOnTermination"]
    assert ingress(cloud, group) == []


def test_why_the_group_is_named(cloud):
    """A group that Ray makes lets the whole internet in by SSH, whatever the file says."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config

    config = yaml.safe_load(FILE.read_text())
    for each in config["available_node_types"].values():
        del each["node_config"]["SecurityGroupIds"]
    config = bootstrap_aws(prepare_config(config))
    (group,) = config["available_node_types"]["head"]["node_config"]["SecurityGroupIds"]
    assert [rule["IpRanges"] for rule in ingress(cloud, group) if rule.get("FromPort") == 22] == [
        [{"CidrIp": "0.0.0.0/0"}]
    ]
