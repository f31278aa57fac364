"""One adapter per family, in a file with the family's name."""

from captum_dexar.families.adapters.aria import AriaAdapter
from captum_dexar.families.adapters.aya_vision import AyaVisionAdapter
from captum_dexar.families.adapters.blip import BlipAdapter
from captum_dexar.families.adapters.blip2 import Blip2Adapter
from captum_dexar.families.adapters.chameleon import ChameleonAdapter
from captum_dexar.families.adapters.cohere2_vision import Cohere2VisionAdapter
from captum_dexar.families.adapters.deepseek_ocr2 import DeepseekOcr2Adapter
from captum_dexar.families.adapters.deepseek_vl import DeepseekVLAdapter
from captum_dexar.families.adapters.deepseek_vl_hybrid import DeepseekVLHybridAdapter
from captum_dexar.families.adapters.emu3 import Emu3Adapter
from captum_dexar.families.adapters.fast_vlm import FastVlmAdapter
from captum_dexar.families.adapters.florence2 import Florence2Adapter
from captum_dexar.families.adapters.fuyu import FuyuAdapter
from captum_dexar.families.adapters.gemma3 import Gemma3Adapter
from captum_dexar.families.adapters.gemma3n import Gemma3nAdapter
from captum_dexar.families.adapters.gemma4 import Gemma4Adapter, Gemma4UnifiedAdapter
from captum_dexar.families.adapters.git import GitAdapter
from captum_dexar.families.adapters.glm4v import Glm4vAdapter
from captum_dexar.families.adapters.glm5_next import Glm5NextAdapter
from captum_dexar.families.adapters.got_ocr2 import GotOcr2Adapter
from captum_dexar.families.adapters.granite4_vision import Granite4VisionAdapter
from captum_dexar.families.adapters.granite_docling import GraniteDoclingAdapter
from captum_dexar.families.adapters.hunyuan_vl import HunYuanVLAdapter
from captum_dexar.families.adapters.idefics import (
    IdeficsAdapter,
    IdeficsResamplerAdapter,
)
from captum_dexar.families.adapters.idefics2 import Idefics2Adapter
from captum_dexar.families.adapters.idefics3 import Idefics3Adapter
from captum_dexar.families.adapters.inkling import Inkling2Adapter, InklingAdapter
from captum_dexar.families.adapters.internvl import InternVLAdapter
from captum_dexar.families.adapters.kosmos2 import Kosmos2Adapter
from captum_dexar.families.adapters.kosmos2_5 import Kosmos25Adapter
from captum_dexar.families.adapters.lfm2_vl import Lfm2VlAdapter
from captum_dexar.families.adapters.llama4 import Llama4Adapter
from captum_dexar.families.adapters.llava import LlavaAdapter
from captum_dexar.families.adapters.llava_next import LlavaNextAdapter
from captum_dexar.families.adapters.llava_onevision import LlavaOnevisionAdapter
from captum_dexar.families.adapters.minicpm import MiniCPMV47Adapter, MiniCPMVAdapter
from captum_dexar.families.adapters.mllama import MllamaAdapter
from captum_dexar.families.adapters.molmo2 import Molmo2Adapter
from captum_dexar.families.adapters.ovis2 import Ovis2Adapter
from captum_dexar.families.adapters.paligemma import PaliGemmaAdapter
from captum_dexar.families.adapters.perception_lm import PerceptionLMAdapter
from captum_dexar.families.adapters.pix2struct import Pix2StructAdapter
from captum_dexar.families.adapters.pixtral import PixtralAdapter
from captum_dexar.families.adapters.plain_grids import (
    MiniMaxM3Adapter,
    PlainGridAdapter,
)
from captum_dexar.families.adapters.pp_formulanet import PPFormulaNetAdapter
from captum_dexar.families.adapters.qwen_vl import QwenOmniAdapter, QwenVLAdapter
from captum_dexar.families.adapters.raster_grids import (
    KimiK25Adapter,
    MuseAdapter,
    NemotronHOmniAdapter,
)
from captum_dexar.families.adapters.rope_grids import (
    CohereCompassAdapter,
    Cosmos3Adapter,
    Ernie45VLAdapter,
    PaddleOCRVLAdapter,
)
from captum_dexar.families.adapters.shieldgemma2 import ShieldGemma2Adapter
from captum_dexar.families.adapters.step3p7 import Step3p7Adapter
from captum_dexar.families.adapters.t5gemma2 import T5Gemma2Adapter
from captum_dexar.families.adapters.udop import UdopAdapter
from captum_dexar.families.adapters.unlimited_ocr import UnlimitedOcrAdapter
from captum_dexar.families.adapters.video_llama3 import VideoLlama3Adapter
from captum_dexar.families.adapters.video_llava import VideoLlavaAdapter
from captum_dexar.families.adapters.vision_encoder_decoder import (
    VisionEncoderDecoderAdapter,
)
from captum_dexar.families.base import FamilyAdapter

# The first adapter that matches is used: one for some models of a type (a LLaVA with
# Pixtral's vision tower) has to come before that for the type, and one for a processor
# (ShieldGemma 2's, in earlier versions of transformers) before that for its base class.
ADAPTERS: tuple[type[FamilyAdapter], ...] = (
    PixtralAdapter,
    ShieldGemma2Adapter,
    AriaAdapter,
    AyaVisionAdapter,
    BlipAdapter,
    Blip2Adapter,
    ChameleonAdapter,
    Cohere2VisionAdapter,
    CohereCompassAdapter,
    Cosmos3Adapter,
    Ernie45VLAdapter,
    DeepseekOcr2Adapter,
    DeepseekVLAdapter,
    DeepseekVLHybridAdapter,
    FastVlmAdapter,
    Emu3Adapter,
    Florence2Adapter,
    FuyuAdapter,
    Gemma3Adapter,
    Gemma3nAdapter,
    Gemma4Adapter,
    GitAdapter,
    Gemma4UnifiedAdapter,
    Glm4vAdapter,
    Glm5NextAdapter,
    HunYuanVLAdapter,
    GotOcr2Adapter,
    Granite4VisionAdapter,
    GraniteDoclingAdapter,
    Idefics2Adapter,
    Idefics3Adapter,
    IdeficsAdapter,
    IdeficsResamplerAdapter,
    InklingAdapter,
    Inkling2Adapter,
    InternVLAdapter,
    KimiK25Adapter,
    Kosmos2Adapter,
    Kosmos25Adapter,
    Lfm2VlAdapter,
    Llama4Adapter,
    LlavaAdapter,
    LlavaNextAdapter,
    LlavaOnevisionAdapter,
    MiniCPMVAdapter,
    MiniCPMV47Adapter,
    MllamaAdapter,
    MuseAdapter,
    NemotronHOmniAdapter,
    Molmo2Adapter,
    Ovis2Adapter,
    PaddleOCRVLAdapter,
    PaliGemmaAdapter,
    MiniMaxM3Adapter,
    PlainGridAdapter,
    QwenOmniAdapter,
    Pix2StructAdapter,
    PPFormulaNetAdapter,
    PerceptionLMAdapter,
    QwenVLAdapter,
    Step3p7Adapter,
    T5Gemma2Adapter,
    UdopAdapter,
    UnlimitedOcrAdapter,
    VideoLlama3Adapter,
    VideoLlavaAdapter,
    VisionEncoderDecoderAdapter,
)
