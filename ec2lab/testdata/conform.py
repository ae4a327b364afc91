"""Judges recorded requests by botocore's model of the services.

It reads a JSON list of {Service, Name, Params} and prints a line for each parameter
that the API does not have, that is missing, or whose value is none of the API's."""

import json
import sys

import botocore.loaders
import botocore.model
import botocore.validate

MODELS = {"elasticloadbalancing": "elbv2"}


class Request:
    def __init__(self, model, operation, params):
        self.protocol = model.metadata["protocol"]
        self.shape = model.operation_model(operation).input_shape
        self.params, self.left, self.problems = params, set(params), []

    def below(self, name):
        return any(k == name or k.startswith(name + ".") for k in self.params)

    def wire(self, member, shape):
        """The name of a member in a request, as botocore's serializers have it."""
        if self.protocol == "ec2":
            name = shape.serialization.get("queryName") or shape.serialization.get("name")
            return name[0].upper() + name[1:] if name else member
        return shape.serialization.get("name", member) if self.protocol == "query" else member

    def value(self, name, shape):
        if shape.type_name == "structure":
            at = name + "." if name else ""
            return {
                m: self.value(at + self.wire(m, s), s)
                for m, s in shape.members.items() if self.below(at + self.wire(m, s))
            }
        if shape.type_name == "list":
            at = name + (".member." if self.protocol == "query" else ".")
            items = []
            while self.below(at + str(len(items) + 1)):
                items.append(self.value(at + str(len(items) + 1), shape.member))
            return items
        self.left.discard(name)
        text = self.params[name][0]
        if len(self.params[name]) != 1:
            self.problems.append(f"{name} is given twice")
        if getattr(shape, "enum", None) and text not in shape.enum:
            self.problems.append(f"{name} is {text!r} and not one of {shape.enum}")
        try:
            if shape.type_name in ("integer", "long"):
                return int(text)
            if shape.type_name == "boolean":
                return {"true": True, "false": False}[text]
        except (KeyError, ValueError):
            self.problems.append(f"{name} is {text!r} and no {shape.type_name}")
        return text

    def judge(self):
        if self.shape is None:
            return [f"{k} is unknown" for k in self.left]
        built = self.value("", self.shape)
        if self.protocol == "rest-json" and "BlockData" in self.shape.members:
            built["BlockData"] = b""  # it is not recorded
        report = botocore.validate.ParamValidator().validate(built, self.shape)
        payload = self.shape.serialization.get("payload") if self.protocol == "rest-xml" else None  # it is not recorded
        self.problems += [p for p in report.generate_report().splitlines() if f'in input: "{payload}"' not in p]
        if payload:  # the header of a body is that of each call with one
            self.left -= {k for k in self.left if k.startswith("Checksum")} | {"ContentType"}
        return self.problems + [f"{k} is unknown" for k in sorted(self.left)]


def main():
    loader, models = botocore.loaders.Loader(), {}
    for call in json.load(sys.stdin):
        service, name = call["Service"], call["Name"]
        if service not in models:
            models[service] = botocore.model.ServiceModel(loader.load_service_model(MODELS.get(service, service), "service-2"))
        model = models[service]
        params = {k: v for k, v in call["Params"].items() if k not in ("Action", "Version")}
        if name not in model.operation_names:
            print(f"{service}: there is no {name}")
            continue
        for problem in Request(model, name, params).judge():
            print(f"{service} {name}: {problem}")


main()
