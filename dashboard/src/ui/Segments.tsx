/** A choice of one among a few, as a row of buttons. */

export function Segments<K extends string>(props: {
  label: string;
  value: K;
  options: Record<K, string>;
  onChange(value: K): void;
}) {
  return (
    <div className="segments" role="group" aria-label={props.label}>
      {(Object.entries(props.options) as [K, string][]).map(([key, text]) => (
        <button
          key={key}
          type="button"
          aria-pressed={key === props.value}
          onClick={() => props.onChange(key)}
        >
          {text}
        </button>
      ))}
    </div>
  );
}
