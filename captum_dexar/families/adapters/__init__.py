"""One adapter per family, in a file with the family's name."""

from captum_dexar.families.adapters.aria import AriaAdapter
from captum_dexar.families.adapters.aya_vision import AyaVisionAdapter
from captum_dexar.families.adapters.chameleon import ChameleonAdapter
from captum_dexar.families.adapters.cohere2_vision import Cohere2VisionAdapter
from captum_dexar.families.adapters.florence2 import Florence2Adapter
from captum_dexar.families.adapters.fuyu import FuyuAdapter
from captum_dexar.families.adapters.gemma3 import Gemma3Adapter
from captum_dexar.families.adapters.gemma4 import Gemma4Adapter
from captum_dexar.families.adapters.glm4v import Glm4vAdapter
from captum_dexar.families.adapters.idefics2 import Idefics2Adapter
from captum_dexar.families.adapters.idefics3 import Idefics3Adapter
from captum_dexar.families.adapters.internvl import InternVLAdapter
from captum_dexar.families.adapters.lfm2_vl import Lfm2VlAdapter
from captum_dexar.families.adapters.llama4 import Llama4Adapter
from captum_dexar.families.adapters.llava import LlavaAdapter
from captum_dexar.families.adapters.llava_next import LlavaNextAdapter
from captum_dexar.families.adapters.llava_onevision import LlavaOnevisionAdapter
from captum_dexar.families.adapters.mllama import MllamaAdapter
from captum_dexar.families.adapters.ovis2 import Ovis2Adapter
from captum_dexar.families.adapters.paligemma import PaliGemmaAdapter
from captum_dexar.families.adapters.pixtral import PixtralAdapter
from captum_dexar.families.adapters.qwen_vl import QwenVLAdapter
from captum_dexar.families.adapters.video_llama3 import VideoLlama3Adapter
from captum_dexar.families.base import FamilyAdapter

# The first adapter that matches is used: one for some models of a type (a LLaVA with
# Pixtral's vision tower) has to come before that for the type.
ADAPTERS: tuple[type[FamilyAdapter], ...] = (
    PixtralAdapter,
    AriaAdapter,
    AyaVisionAdapter,
    ChameleonAdapter,
    Cohere2VisionAdapter,
    Florence2Adapter,
    FuyuAdapter,
    Gemma3Adapter,
    Gemma4Adapter,
    Glm4vAdapter,
    Idefics2Adapter,
    Idefics3Adapter,
    InternVLAdapter,
    Lfm2VlAdapter,
    Llama4Adapter,
    LlavaAdapter,
    LlavaNextAdapter,
    LlavaOnevisionAdapter,
    MllamaAdapter,
    Ovis2Adapter,
    PaliGemmaAdapter,
    QwenVLAdapter,
    VideoLlama3Adapter,
)
