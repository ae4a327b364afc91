"""Reads a bundle by OpenStack's ec2-api, with EC2's private key, as its RegisterImage does.

It prints the path of the image. The folder has the manifest, the parts and ec2.pem."""

import os
import sys

from ec2api.api import ec2utils, image
from oslo_config import cfg

folder = sys.argv[1]
cfg.CONF([], project="ec2api")
cfg.CONF.set_override("x509_root_private_key", os.path.join(folder, "ec2.pem"))


class Kernel:
    id = "aki"


ec2utils.get_os_image = lambda context, name: Kernel  # the database of kernels
with open(os.path.join(folder, "image.manifest.xml"), "rb") as f:
    metadata, parts, key, iv = image._s3_parse_manifest(None, f.read())
if metadata["architecture"] != "x86_64" or metadata["kernel_id"] != "aki":
    sys.exit(f"the manifest tells {metadata}")
encrypted, archive = os.path.join(folder, "encrypted"), os.path.join(folder, "image.tar.gz")
with open(encrypted, "wb") as whole:
    for part in parts:
        with open(os.path.join(folder, part), "rb") as f:
            whole.write(f.read())
image._s3_decrypt_image(None, encrypted, key, iv, archive)
print(image._s3_untarzip_image(folder, archive))
