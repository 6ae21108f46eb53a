"""What a report says, in both languages: `words("zh")("rate")`. It is handed on, so it has texts of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Words = Callable[..., str]

TEXT: Final[dict[str, tuple[str, str]]] = {
    "title": ("Connection and data completeness", "设备联网与数据完整性报告"),
    "site": ("Site files", "站点文件"),
    "time": ("Time", "统计时段"),
    "store": ("Store", "数据来源"),
    "made": ("Made", "生成时间"),
    "version": ("PlantBridge", "厂云桥版本"),
    "no-store": ("none asked: nothing here is measured", "未查询：以下没有实测数据"),
    "live-source": ("running gateway", "运行中的网关"),
    # the rates
    "rates": ("Rates", "指标"),
    "indicator": ("indicator", "指标"),
    "rate": ("rate", "比率"),
    "numerator": ("numerator", "分子"),
    "denominator": ("denominator", "分母"),
    "basis": ("basis", "依据"),
    "counted": ("counted", "计入分子"),
    "from": ("from", "统计开始"),
    "to": ("to (not included)", "统计结束（不含）"),
    "rest": ("not counted", "未计入分子"),
    "configured": ("device connection rate, as configured", "生产设备联网率（登记）"),
    "measured": ("device connection rate, as measured", "生产设备联网率（实测）"),
    "live": ("device connection rate, now", "生产设备联网率（当前）"),
    "processes": ("numerical control rate of key processes", "关键工序数控化率"),
    "equipment": ("numerical control rate of equipment", "装备数控化率"),
    "configured-basis": ("listed as connected, of those listed", "清单登记为已联网的台数 ÷ 清单台数"),
    "measured-basis": ("good data in the time, of those listed", "时段内有有效数据的台数 ÷ 清单台数"),
    "live-basis": ("good values from the gateway now, of those listed", "网关当前采到有效值的台数 ÷ 清单台数"),
    "processes-basis": (
        "all machines numerically controlled, of the key processes",
        "设备全部数控的关键工序数 ÷ 关键工序总数",
    ),
    "equipment-basis": ("numerically controlled, of those listed", "数控设备台数 ÷ 清单台数"),
    # devices
    "devices": ("Devices", "设备"),
    "gateway": ("gateway", "网关"),
    "device": ("device", "设备"),
    "state": ("state", "登记状态"),
    "is-counted": ("production equipment", "是否生产设备"),
    "vendor": ("vendor", "厂家"),
    "model": ("model", "型号"),
    "serial": ("serial", "序列号"),
    "location": ("location", "位置"),
    "process": ("key process", "关键工序"),
    "nc": ("numerically controlled", "是否数控"),
    "link": ("link", "链路"),
    "good-data": ("good data in the time", "时段内有有效数据"),
    "answers": ("answers now", "当前应答"),
    "last-good": ("last good sample", "最近有效数据时间"),
    "evidence": ("evidence", "依据"),
    "connected": ("connected", "已联网"),
    "planned": ("planned", "计划联网"),
    "not-connectable": ("not connectable", "无法联网"),
    "auxiliary": ("auxiliary, not counted", "辅助设备，不计入"),
    "yes": ("yes", "是"),
    "no": ("no", "否"),
    "is-nc": ("NC", "数控"),
    "from-rows": ("{count} good rows", "有效数据 {count} 条"),
    "from-held": ("{count} values from before still hold", "{count} 个此前的值仍然有效"),
    "from-nothing": ("no good data", "无有效数据"),
    "never": ("none within 31 days before", "此前 31 天内没有"),
    "no-link": ("no link", "没有链路"),
    "scanned": ("answers", "有应答"),
    "silent": ("does not answer: {reason}", "无应答：{reason}"),
    "all-bad": ("answers, every tag is Bad", "有应答，但全部点位为坏值"),
    "not-running": ("its gateway does not run", "所属网关未运行"),
    # processes
    "key-processes": ("Key processes", "关键工序"),
    "counts": ("numerically controlled", "是否数控化"),
    "process-nc": ("process numerically controlled", "工序是否数控化"),
    "partly": ("partly: {some} of {all}", "部分：{some}/{all}"),
    "machines": ("machines", "设备"),
    # completeness
    "completeness": ("Data completeness", "数据完整率"),
    "complete": ("complete", "完整率"),
    "hour": ("hour", "小时"),
    "good": ("good", "有效"),
    "expected": ("expected", "应有"),
    "uncertain": ("uncertain", "存疑"),
    "bad": ("bad", "坏值"),
    "gap": ("declared gap", "已声明缺口"),
    "unknown": ("unknown", "不明"),
    "rows": ("good rows stored", "有效数据条数"),
    "incomplete-hours": ("Hours that are not complete", "不完整的小时"),
    "more": ("{count} more: see completeness.csv", "另有 {count} 行，见 completeness.csv"),
    "by-hour": ("each cell an hour", "每格一小时"),
    "by-day": ("each cell a day", "每格一天"),
    "remarks": ("Remarks", "说明"),
    "how": (
        "Expected are the scan instants of every tag by the site file as it is now. An instant is good where a stored"
        " row says so, or a row before it that by the rules of report by exception still holds; bad where the device or"
        " tag was Bad; a gap where the gateway declared one; unknown where the store cannot tell.",
        "“应有”是按当前站点文件计算的全部点位采集时刻。某一时刻“有效”，指库中该时刻有有效数据，或按变化上报规则此前的有效值仍然成立；"
        "“坏值”指设备或点位当时不可用；“已声明缺口”由网关声明；“不明”指凭库中数据无法判断。",
    ),
    "unlisted": (
        "Devices that are not in the site files do not count, whatever is stored of them.",
        "站点文件之外的设备，无论库中有无数据，一律不计入。",
    ),
    "heard": (
        "{gateway}: nothing came from this gateway after {time}.", "{gateway}：{time} 之后没有收到该网关的数据。",
    ),
    "unheard": (
        "{gateway}: nothing came from this gateway in the time.", "{gateway}：统计时段内没有收到该网关的数据。",
    ),
    "thinned": (
        "{gateway}: {count} readings were left out on purpose, to keep a budget; they count as covered.",
        "{gateway}：为控制流量预算，主动略去 {count} 条数据；按已覆盖计。",
    ),
    "waiting": (
        "{gateway}: {count} journal records have not come yet; what they hold is missing here.",
        "{gateway}：断线缓存里还有 {count} 条记录尚未送达，其中的数据未计入。",
    ),
    "lost": (
        "{gateway}: {count} journal records were lost without a word; plantbridge account tells which.",
        "{gateway}：断线缓存有 {count} 条记录丢失且未声明；详见 plantbridge account。",
    ),
    "short": (
        "The time is shorter than the 10 s that readings may be on their way: completeness is not computed.",
        "统计时段不足 10 秒（数据在途时间），未计算完整率。",
    ),
}  # fmt: skip


def words(language: str) -> Words:
    """Give the texts of a language."""
    column = 1 if language == "zh" else 0

    def say(key: str, **values: object) -> str:
        return TEXT[key][column].format(**values)

    return say
