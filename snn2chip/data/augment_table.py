"""The tables of a recipe that data know of, and what all tables are."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Table(BaseModel):
    """A table of a recipe: unknown keys, and values of another type, are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class AugmentTable(Table):
    """Augmentation of the training images, on the training device: what to do to them, in this order; the default does
    nothing. What is painted is 0, which is black for raw images: augment before normalizing.

    crop      a crop of the original size after zero padding on every side, or after a reflected `border`
    cutout    a square centred anywhere in the image
    erase     a rectangle (Zhong et al. 2020: of 2 to 33 % of the image, its sides 0.3 to 3.3 to 1)
    rotate, zoom, shear  of one affine map, nearest pixel
    roll      what leaves at an edge enters at the other
    drop      largest share of the values set to 0, each on its own (of events: dropped); a sample's own share is drawn
    """

    crop: int = Field(0, ge=0, description="random crop after this much zero padding, pixels")
    border: Literal["black", "reflect"] = Field("black", description="what the padding of crop holds")
    flip: Literal[False, True, "alternating"] = Field(
        False, description="random horizontal flip; 'alternating': each image the other way round than an epoch before"
    )
    cutout: int = Field(0, ge=0, description="side of the square set to zero, pixels")
    erase: float = Field(0.0, ge=0, le=1, description="share of the images of which a random rectangle is set to zero")
    cutmix: float = Field(0.0, ge=0, le=1, description="share of the batches whose images show a part of another one")
    mixup: float = Field(0.0, ge=0, le=1, description="share of the batches whose images are mixed with another one")
    roll: int = Field(0, ge=0, description="random shift by up to this many pixels, around the edges")
    rotate: float = Field(0.0, ge=0, le=180, description="random rotation by up to this many degrees")
    zoom: float = Field(0.0, ge=0, lt=1, description="random size, by up to this share larger or smaller")
    shear: float = Field(0.0, ge=0, le=1, description="random slant, pixels to the side for one up")
    drop: float = Field(0.0, ge=0, lt=1, description="random share of the events dropped, up to this")

    @model_validator(mode="after")
    def _one_mix_a_batch(self) -> Self:
        if self.cutmix + self.mixup > 1:
            raise ValueError(
                f"cutmix {self.cutmix:g} and mixup {self.mixup:g} are shares of the batches: at most 1 in all"
            )
        return self
